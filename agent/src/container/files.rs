//! The files that the request brings (/etc/hosts and its like), as they can be changed while the container runs.
//!
//! They are the container's alone, in mounts that only its own processes see. The first process shows the agent their
//! descriptors before it leaves: no path of the container's is followed later.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::fd::AsFd;

use serde_bytes::ByteBuf;

use super::line::Line;
use crate::failure::{During, Result};

/// The tmpfs that they are on, before the container's root is entered.
pub const DIRECTORY: &str = "/run";

/// Where the one with this number, in the order of their targets, is.
pub fn path(number: usize) -> String {
    format!("{DIRECTORY}/{number}")
}

/// In the first process: the agent finds all of them in the line when it wants them.
pub fn show(line: &Line, files: &BTreeMap<String, ByteBuf>) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let opened = (0..files.len()).map(|number| OpenOptions::new().write(true).open(path(number)));
    let opened: Vec<File> = opened.collect::<std::io::Result<_>>().during("open the container's files")?;
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let descriptors: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
    line.send(names.join("\n").as_bytes(), &descriptors).during("show the container's files")
}

/// The files, in the agent; nobody has asked for them as long as they are in the line.
pub struct Files {
    line: Line,
    known: Option<BTreeMap<String, File>>,
}

impl Files {
    pub fn behind(line: Line) -> Files {
        Files { line, known: None }
    }

    /// Replaces the contents of those that are named here; what else is named, the container does not have.
    pub fn rewrite(&mut self, contents: &BTreeMap<String, ByteBuf>) -> Result<()> {
        let known = self.known.get_or_insert_with(|| receive(&self.line));
        for (target, content) in contents {
            if let Some(file) = known.get_mut(target) {
                replace(file, content).during(format_args!("write {target}"))?;
            }
        }
        Ok(())
    }
}

fn receive(line: &Line) -> BTreeMap<String, File> {
    // What comes first is that the process was ready, unless that was waited for. It runs its program by now, so there is
    // an end after what it has sent.
    while let Ok((names, descriptors)) = line.receive() {
        if !descriptors.is_empty() {
            let names = String::from_utf8_lossy(&names).into_owned();
            return names.split('\n').map(str::to_owned).zip(descriptors.into_iter().map(File::from)).collect();
        }
    }
    BTreeMap::new()
}

fn replace(file: &mut File, content: &[u8]) -> std::io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(content)
}
