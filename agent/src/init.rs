//! The init of `--init`.
pub fn run() -> i32 {
    1
}
