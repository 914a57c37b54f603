//! The service: threads that take one request each from the stream, have the passthrough carry it out, and reply.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fuse_backend_rs::api::filesystem::{Context, FileSystem};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader, Writer};
use rustix::fs::OFlags;

use crate::confinement;
use crate::failure::{During, Result};
use crate::message::{INIT, OPEN, Request, Verdict, WHOLE};
use crate::negotiation;
use crate::opening::{self, doubt};
use crate::outbox::Outbox;
use crate::sandbox::{EXPORTS, Identities};

/// So many requests are under way at once: one that waits for the host's disk does not hold up the others.
const THREADS: usize = 4;
/// How long the guest may take a name or an attribute for granted; not that of a file that it opens ([`doubt`]).
const REMEMBERED: Duration = Duration::from_secs(1);
const READ_AHEAD: usize = 64 << 10;

pub struct Service {
    files: Arc<PassthroughFs>,
    server: Server<Arc<PassthroughFs>>,
    identities: Identities,
    input: Mutex<BufReader<File>>,
    output: Mutex<File>,
    /// No thread reads before all are confined.
    confined: Barrier,
}

/// Opens the exports.
pub fn prepare(socket: OwnedFd, identities: Identities) -> Result<Service> {
    rustix::fs::fcntl_setfl(&socket, OFlags::RDWR).during("have the socket wait")?;
    let output = socket.try_clone().during("share the socket")?;
    let config = Config {
        root_dir: EXPORTS.into(),
        entry_timeout: REMEMBERED,
        attr_timeout: REMEMBERED,
        cache_policy: CachePolicy::Auto,
        xattr: true,
        killpriv_v2: true,
        enable_mntid: true,
        // Otherwise a number is remembered for every file that there ever was.
        use_host_ino: true,
        ..Config::default()
    };
    let files = Arc::new(PassthroughFs::new(config).during("open the exports")?);
    Ok(Service {
        server: Server::new(Arc::clone(&files)),
        files,
        identities,
        input: Mutex::new(BufReader::with_capacity(READ_AHEAD, File::from(socket))),
        output: Mutex::new(File::from(output)),
        confined: Barrier::new(THREADS + 1),
    })
}

impl Service {
    /// Serves until the stream ends; requests that are under way then are carried out.
    pub fn serve(self) -> Result<()> {
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    if let Err(failure) = self.work() {
                        // The others may wait for requests for ever: the guest is to hear of it.
                        eprintln!("{failure}");
                        std::process::exit(1);
                    }
                });
            }
            confinement::restrict_calls().during("restrict its system calls")?;
            self.confined.wait();
            Ok(())
        })
    }

    fn work(&self) -> Result<()> {
        let mut buffer = vec![0; WHOLE];
        let mut space = vec![0; WHOLE];
        let mut outbox = Outbox::new().during("make room for replies")?;
        confinement::restrict_calls().during("restrict its system calls")?;
        self.confined.wait();
        loop {
            let request = {
                let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
                Request::read(&mut *input, &mut buffer).during("read the guest's requests")?
            };
            let Some(request) = request else { return Ok(()) };
            let Some(bytes) = buffer.get_mut(..request.bytes) else { return Ok(()) };
            let reply = match request.judge(bytes, self.identities) {
                Verdict::Serve => self.carry_out(request, bytes, &mut space, &mut outbox),
                Verdict::Refuse(errno) => Ok(outbox.refuse(request.unique, errno)),
                Verdict::Ignore => Ok(None),
            };
            if let Some(reply) = reply.during("carry out a request")? {
                let notice = if request.opcode == OPEN { Some(doubt(request.node)) } else { None };
                let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
                let told = notice.map_or(Ok(()), |notice| output.write_all(&notice));
                if told.and_then(|()| output.write_all(reply)).is_err() {
                    return Ok(()); // nobody listens any more
                }
            }
        }
    }

    fn carry_out<'a>(
        &self,
        request: Request,
        bytes: &mut [u8],
        space: &mut [u8],
        outbox: &'a mut Outbox,
    ) -> io::Result<Option<&'a mut [u8]>> {
        let offer = if request.opcode == INIT { bytes.to_vec() } else { Vec::new() };
        let only_reads = request.opcode == OPEN && opening::only_reads(bytes);
        let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(bytes)).map_err(io::Error::other)?;
        let writer = FuseDevWriter::new(outbox.open()?, space).map_err(io::Error::other)?;
        // An error here is a request that makes no sense: it has no reply, or has it by now.
        let _ = self.server.handle_message(reader, Writer::from(writer), None, None);
        let Some(reply) = outbox.reply() else { return Ok(None) };
        if request.opcode == INIT {
            negotiation::complete(&offer, reply);
        }
        if only_reads && self.says_it_is_empty(request.node) {
            opening::bypass_cache(reply);
        }
        Ok(Some(reply))
    }
    fn says_it_is_empty(&self, node: u64) -> bool {
        self.files.getattr(&Context::default(), node, None).is_ok_and(|(status, _)| status.st_size == 0)
    }
}
