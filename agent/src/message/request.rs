//! Which requests there are, and how one is read: `[method, parameters]`.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::{
    Connect, Disconnect, Exec, Profile, ReadArchive, ReadChanges, ReadStream, Resize, Signal, Start, StatPath,
    WriteArchive,
};

/// Work on the container's files (`archive/`); what is long goes through the stream that the request names.
#[derive(Debug)]
pub enum FileRequest {
    StatPath(StatPath),
    ReadArchive(ReadArchive),
    WriteArchive(WriteArchive),
    ReadRoot(ReadStream),
    Changes(ReadStream),
    ReadChanges(ReadChanges),
}

/// A REQUEST frame's payload, `[method, parameters]`.
#[derive(Debug)]
pub enum Request {
    Ping,
    Start(Box<Start>),
    Proceed,
    Exec(Box<Exec>),
    Signal(Signal),
    Resize(Resize),
    Processes,
    Statistics,
    Connect(Box<Connect>),
    Disconnect(Disconnect),
    PowerOff,
    PrepareTemplate,
    Forget(Box<Profile>),
    Files(FileRequest),
    /// A method that this agent does not have: answered with an error, the channel lives on.
    Unknown(String),
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Request, D::Error> {
        deserializer.deserialize_seq(RequestVisitor)
    }
}

struct RequestVisitor;

impl<'de> Visitor<'de> for RequestVisitor {
    type Value = Request;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[method, parameters]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Request, A::Error> {
        let method: String = next(&mut items)?;
        let request = match method.as_str() {
            "start" => Request::Start(next(&mut items)?),
            "exec" => Request::Exec(next(&mut items)?),
            "signal" => Request::Signal(next(&mut items)?),
            "resize" => Request::Resize(next(&mut items)?),
            "forget" => Request::Forget(next(&mut items)?),
            "connect" => Request::Connect(next(&mut items)?),
            "disconnect" => Request::Disconnect(next(&mut items)?),
            "stat_path" => Request::Files(FileRequest::StatPath(next(&mut items)?)),
            "read_archive" => Request::Files(FileRequest::ReadArchive(next(&mut items)?)),
            "write_archive" => Request::Files(FileRequest::WriteArchive(next(&mut items)?)),
            "read_root" => Request::Files(FileRequest::ReadRoot(next(&mut items)?)),
            "changes" => Request::Files(FileRequest::Changes(next(&mut items)?)),
            "read_changes" => Request::Files(FileRequest::ReadChanges(next(&mut items)?)),
            _ => {
                let de::IgnoredAny = next(&mut items)?;
                match method.as_str() {
                    "ping" => Request::Ping,
                    "proceed" => Request::Proceed,
                    "processes" => Request::Processes,
                    "statistics" => Request::Statistics,
                    "poweroff" => Request::PowerOff,
                    "prepare_template" => Request::PrepareTemplate,
                    _ => Request::Unknown(method),
                }
            }
        };
        Ok(request)
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(items: &mut A) -> Result<T, A::Error> {
    items.next_element()?.ok_or_else(|| de::Error::custom("a request is [method, parameters]"))
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    fn encode<T: Serialize>(value: &T) -> Vec<u8> {
        rmp_serde::to_vec_named(value).unwrap()
    }

    #[test]
    fn missing_fields_have_their_defaults() {
        #[derive(Serialize)]
        struct Process {
            arguments: Vec<&'static str>,
        }
        #[derive(Serialize)]
        struct Exec {
            id: &'static str,
            process: Process,
        }
        let bytes = encode(&("exec", Exec { id: "e1", process: Process { arguments: vec!["true"] } }));
        let Request::Exec(exec) = rmp_serde::from_slice(&bytes).unwrap() else { panic!("not an exec") };
        assert_eq!(exec.process.arguments, ["true"]);
        assert_eq!(exec.process.working_dir, "/");
        assert!(exec.process.terminal.is_none() && exec.process.stdio.stdin.is_none());
    }

    #[test]
    fn a_request_without_parameters_takes_nil() {
        let bytes = encode(&("ping", ()));
        assert!(matches!(rmp_serde::from_slice(&bytes).unwrap(), Request::Ping));
    }

    #[test]
    fn an_unknown_method_is_no_broken_frame() {
        let bytes = encode(&("dance", [1, 2, 3]));
        assert!(matches!(rmp_serde::from_slice(&bytes).unwrap(), Request::Unknown(method) if method == "dance"));
    }

    #[test]
    fn a_request_that_is_not_a_pair_is_refused() {
        assert!(rmp_serde::from_slice::<Request>(&encode(&"ping")).is_err());
        assert!(rmp_serde::from_slice::<Request>(&encode(&("start", ()))).is_err());
    }
}
