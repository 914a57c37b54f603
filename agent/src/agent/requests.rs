//! What the host asks, and who answers it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use serde_bytes::ByteBuf;

use super::Agent;
use crate::channel::frame::Broken;
use crate::container::understudy::Understudy;
use crate::container::{Container, Scene};
use crate::failure::{Code, During, Failure, Result};
use crate::message::{self, Request};
use crate::process::table::{FIRST, Process, Starting};
use crate::process::terminal;
use crate::stopwatch::Stopwatch;
use crate::{power, processes, statistics};

/// A container that is all put together, and its first process, which has not begun.
pub(super) struct Waiting {
    process: message::Process,
    ours: [Option<OwnedFd>; 3],
    starting: Starting,
    understudy: Understudy,
    scene: Scene,
}

impl Agent {
    /// Serves one request. `start` and `exec` are answered when the process has got as far as
    /// execve(2), work on files when it is done, everything else at once.
    pub(super) fn request(&mut self, id: u32, payload: &[u8]) -> std::result::Result<(), Broken> {
        let request = rmp_serde::from_slice(payload).map_err(|_| Broken("a request that does not decode"))?;
        match request {
            Request::Ping => self.answer(id, Ok(())),
            Request::Start(start) => {
                if let Err(failure) = self.start(id, *start, payload, Stopwatch::start()) {
                    self.answer::<()>(id, Err(failure));
                }
            }
            Request::Proceed => {
                let result = self.proceed();
                self.answer(id, result);
            }
            Request::Exec(exec) => {
                if let Err(failure) = self.exec(id, &exec, Stopwatch::start()) {
                    self.answer::<()>(id, Err(failure));
                }
            }
            Request::Signal(signal) => {
                let result = self.find(&signal.id).and_then(|process| process.signal(signal.signal, signal.everyone));
                self.answer(id, result);
            }
            Request::Resize(resize) => {
                let result = self.resize(&resize);
                self.answer(id, result);
            }
            Request::Processes => {
                let result = self
                    .running()
                    .map(|(container, first)| processes::list(first.pid.as_raw_nonzero().get(), container.started_s));
                self.answer(id, result);
            }
            Request::Statistics => {
                let result = self.running().map(|_| statistics::read_all());
                self.answer(id, result);
            }
            Request::Connect(asked) => {
                let result = self.connect(&asked);
                self.answer(id, result);
            }
            Request::Disconnect(asked) => {
                let result = self.disconnect(&asked);
                self.answer(id, result);
            }
            Request::PowerOff => {
                self.answer(id, Ok(()));
                self.port.flush();
                self.power_off();
            }
            Request::PrepareTemplate => {
                let result = power::prepare_template(self.container.is_some(), &mut self.network);
                self.answer(id, result);
            }
            Request::Forget(profile) => {
                let result = self.forget(*profile);
                self.answer(id, result);
            }
            Request::Files(asked) => {
                if let Err(failure) = self.work_on_files(id, &asked) {
                    self.answer::<()>(id, Err(failure));
                }
            }
            Request::Unknown(method) => {
                let failure = Failure::new(Code::InvalidRequest, format!("the agent knows no request {method}"));
                self.answer::<()>(id, Err(failure));
            }
        }
        Ok(())
    }

    fn start(&mut self, request: u32, start: message::Start, payload: &[u8], mut stopwatch: Stopwatch) -> Result<()> {
        if self.container.is_some() {
            return Err(Failure::new(Code::Conflict, "this guest has started its container already"));
        }
        let plan = self.plan(FIRST, &start.process)?;
        let container = self.container.insert(Container::default());
        let understudy = match self.understudy.take() {
            Some(understudy) if understudy.fits(&start.profile) => understudy,
            other => {
                other.map_or(Ok(()), Understudy::dismiss)?;
                Understudy::spawn(start.profile.clone())?
            }
        };
        understudy.assign(payload, plan.theirs, plan.reporter)?;
        stopwatch.done("assignment");
        match container.put_together(&start, &understudy, &mut self.network, self.booted_bytes, &mut stopwatch) {
            Ok(scene) => {
                let starting = Starting { request, listener: plan.listener, stopwatch };
                let waiting = Waiting { process: start.process, ours: plan.ours, starting, understudy, scene };
                if start.waits {
                    self.waiting = Some(waiting);
                    return Ok(());
                }
                self.begin(waiting)
            }
            Err(failure) => {
                self.take_container_apart();
                Err(failure)
            }
        }
    }

    /// What a start has waited for is there. How its process begins, the answer to `start` says.
    fn proceed(&mut self) -> Result<()> {
        let nothing = || Failure::new(Code::Conflict, "no start waits");
        let mut waiting = self.waiting.take().ok_or_else(nothing)?;
        waiting.starting.stopwatch.done("wait for the host");
        let request = waiting.starting.request;
        if let Err(failure) = self.begin(waiting) {
            self.answer::<()>(request, Err(failure));
        }
        Ok(())
    }

    fn begin(&mut self, waiting: Waiting) -> Result<()> {
        let Waiting { process, ours, starting, understudy, scene } = waiting;
        let container = self.container.get_or_insert_default();
        let child = container.begin(understudy, &scene);
        self.enrol(FIRST, &process, ours, child, starting)
    }

    fn exec(&mut self, request: u32, exec: &message::Exec, stopwatch: Stopwatch) -> Result<()> {
        if self.find(&exec.id).is_ok() {
            return Err(Failure::new(Code::Conflict, format!("there is a process {} already", exec.id)));
        }
        let plan = self.plan(&exec.id, &exec.process)?;
        let (container, first) = self.running()?;
        let child = container.exec(exec, &first.pidfd, plan.theirs, plan.reporter)?;
        let starting = Starting { request, listener: plan.listener, stopwatch };
        self.enrol(&exec.id, &exec.process, plan.ours, child, starting)
    }

    fn connect(&mut self, asked: &message::Connect) -> Result<()> {
        self.running()?;
        self.network.connect(&asked.interface)?;
        self.rewrite(&asked.files)
    }

    fn disconnect(&mut self, asked: &message::Disconnect) -> Result<()> {
        self.running()?;
        self.network.disconnect(&asked.pci)?;
        self.rewrite(&asked.files)
    }

    fn rewrite(&mut self, files: &BTreeMap<String, ByteBuf>) -> Result<()> {
        self.container.as_mut().map_or(Ok(()), |container| container.rewrite(files))
    }

    /// Makes room for another container once the last one has ended, which was a rehearsal, and has its first process
    /// wait for its part.
    fn forget(&mut self, profile: message::Profile) -> Result<()> {
        if !self.processes.is_empty() || self.understudy.is_some() {
            return Err(Failure::new(Code::Conflict, "the container has not ended"));
        }
        self.container.take().map_or(Ok(()), Container::forget)?;
        self.network.disconnect_all()?;
        let understudy = self.understudy.insert(Understudy::spawn(profile)?);
        understudy.wait_until_ready()
    }

    /// The container and its first process, if that runs.
    pub(super) fn running(&self) -> Result<(&Container, &Process)> {
        let first = self.find(FIRST).ok().filter(|first| first.is_running());
        match (&self.container, first) {
            (Some(container), Some(first)) => Ok((container, first)),
            _ => Err(Failure::new(Code::Conflict, "the container is not running")),
        }
    }

    fn find(&self, id: &str) -> Result<&Process> {
        let found = self.processes.values().find(|process| process.id == id);
        found.ok_or_else(|| Failure::new(Code::NotFound, format!("there is no process {id}")))
    }

    fn resize(&self, resize: &message::Resize) -> Result<()> {
        match &self.find(&resize.id)?.terminal {
            Some(master) => terminal::resize(master.as_fd(), resize.rows, resize.columns).during("resize the terminal"),
            None => Err(Failure::new(Code::Conflict, format!("process {} has no terminal", resize.id))),
        }
    }

    pub(super) fn take_container_apart(&mut self) {
        self.end_jobs();
        self.waiting = None;
        if let Some(container) = &mut self.container {
            container.kill();
            container.unmount();
        }
    }

    fn power_off(&mut self) {
        if let Some(container) = &self.container {
            container.kill();
        }
        power::wait_for(
            self.processes.values().filter(|process| process.exit_code.is_none()).map(|process| &process.pidfd),
        );
        self.take_container_apart();
        power::off();
    }
}
