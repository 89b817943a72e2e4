//! The values that a launcher passes to its children, and the pipe by which it stops them.

use std::io::{BufReader, PipeWriter, Read, Write};
use std::path::PathBuf;

use super::settings::MeshKey;
use crate::error::{Error, ErrorKind, Result};

/// The environment variable with the mesh key of the children.
pub const KEY_NAME: &str = "WORDTIDE_MESH_KEY";
/// The environment variable with the number of the start.
pub const GENERATION_NAME: &str = "WORDTIDE_GENERATION";
/// The environment variable with the path of the lifeline.
pub const LIFELINE_NAME: &str = "WORDTIDE_LIFELINE";

/// The values that a launcher passes to a child through the environment.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The key of this cluster.
    pub mesh_key: Option<MeshKey>,
    /// The number of this start of the cluster.
    pub generation: u64,
    /// The pipe by which the launcher requests a stop.
    pub lifeline: Option<Lifeline>,
}

impl Inherited {
    /// Reads the values with `lookup`, which is `|name| std::env::var(name).ok()` outside tests.
    /// Returns the default if no launcher has set them.
    ///
    /// # Errors
    /// `Configuration` if a value is not one that a launcher writes.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Inherited> {
        let wrong = |name: &str| {
            let message = format!("{name} in the environment is not from a launcher");
            Error::new(ErrorKind::Configuration, message).hint("unset it")
        };
        let mesh_key = lookup(KEY_NAME).map(|secret| MeshKey::from_secret(secret.as_bytes()));
        let generation = lookup(GENERATION_NAME).map(|text| text.parse());
        Ok(Inherited {
            mesh_key: mesh_key.transpose()?,
            generation: generation.transpose().map_err(|_| wrong(GENERATION_NAME))?.unwrap_or(0),
            lifeline: lookup(LIFELINE_NAME).map(|path| Lifeline(path.into())),
        })
    }
}

/// A request to a child of a launcher, or the end of the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifelineEvent {
    /// The launcher requests a stop.
    Stop,
    /// The launcher requests that the process ends at once.
    EndNow,
    /// The launcher is gone, and no process waits for this one.
    Orphaned,
}

/// The byte that requests a stop. A line end follows it, so that a shell can read it.
const STOP: u8 = b's';
/// The byte that requests an end at once.
const END_NOW: u8 = b'e';

/// The pipe by which the launcher requests a stop, and that ends when it is gone.
#[derive(Debug)]
pub struct Lifeline(PathBuf);

impl Lifeline {
    /// Calls `act` with what the launcher requests, and in the end with
    /// [`LifelineEvent::Orphaned`]. It blocks: call it on a thread of its own.
    ///
    /// # Errors
    /// `Configuration` if the pipe cannot be read.
    pub fn follow(&self, mut act: impl FnMut(LifelineEvent)) -> Result<()> {
        let failed = |cause: std::io::Error| {
            let message = format!("cannot read the launcher's pipe {}: {cause}", self.0.display());
            Error::new(ErrorKind::Configuration, message).cause(cause)
        };
        let pipe = std::fs::File::open(&self.0).map_err(failed)?;
        for byte in BufReader::new(pipe).bytes() {
            match byte.map_err(failed)? {
                STOP => act(LifelineEvent::Stop),
                END_NOW => act(LifelineEvent::EndNow),
                _ => {}
            }
        }
        act(LifelineEvent::Orphaned);
        Ok(())
    }
}

/// The writing ends of the lifelines of all children, each of which has one of its own. They stay
/// open as long as the launcher lives.
#[derive(Debug, Default)]
pub struct Lifelines {
    /// One a child.
    pipes: Vec<PipeWriter>,
    /// True once a stop was requested.
    has_stopped: bool,
}

impl Lifelines {
    /// Adds the lifeline of a child.
    pub fn add(&mut self, pipe: PipeWriter) {
        self.pipes.push(pipe);
    }

    /// Requests a stop of all children, once.
    pub fn stop(&mut self) {
        if !std::mem::replace(&mut self.has_stopped, true) {
            self.write(STOP);
        }
    }

    /// Requests that all children end at once.
    pub fn end_now(&mut self) {
        self.write(END_NOW);
    }

    /// Writes a request to each child.
    fn write(&mut self, request: u8) {
        for pipe in &mut self.pipes {
            // It fails only when the child has ended. A pipe holds 64 KiB.
            let _ = pipe.write_all(&[request, b'\n']);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifeline_is_followed_after_stop() {
        use std::os::fd::AsRawFd;
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut lifelines = Lifelines::default();
        lifelines.add(writer);
        lifelines.stop();
        lifelines.stop();
        lifelines.end_now();
        drop(lifelines);
        let lifeline = Lifeline(format!("/dev/fd/{}", reader.as_raw_fd()).into());
        let mut events = Vec::new();
        lifeline.follow(|event| events.push(event)).expect("a pipe");
        use LifelineEvent::{EndNow, Orphaned, Stop};
        assert_eq!(events, [Stop, EndNow, Orphaned]);
    }

    #[test]
    fn child_environment_is_read_and_checked() {
        let nothing = Inherited::read(|_| None).unwrap();
        assert!(nothing.mesh_key.is_none() && nothing.generation == 0);
        let bad = |name: &str| (name == GENERATION_NAME).then(|| "x".to_owned());
        let error = Inherited::read(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(GENERATION_NAME));
    }
}
