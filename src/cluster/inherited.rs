//! The values that a launcher passes to its children, and the pipe by which it stops them.

use std::io::{PipeWriter, Read, Write};
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

/// The reason for which a child of a launcher is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifelineEnd {
    /// The launcher requests a stop.
    Stop,
    /// The launcher is gone, and no process waits for its stop.
    Orphaned,
}

/// The pipe by which the launcher requests a stop, and that ends when it is gone.
#[derive(Debug)]
pub struct Lifeline(PathBuf);

impl Lifeline {
    /// Blocks until the launcher requests a stop or is gone. Call it on a thread of its own.
    ///
    /// # Errors
    /// `Configuration` if the pipe cannot be opened.
    pub fn wait(&self) -> Result<LifelineEnd> {
        let mut byte = [0];
        let read = std::fs::File::open(&self.0).and_then(|mut pipe| pipe.read(&mut byte));
        let end = |bytes| if bytes > 0 { LifelineEnd::Stop } else { LifelineEnd::Orphaned };
        read.map(end).map_err(|cause| {
            let message = format!("cannot read the launcher's pipe {}: {cause}", self.0.display());
            Error::new(ErrorKind::Configuration, message).cause(cause)
        })
    }
}

/// Requests a stop of `children` children, once.
pub fn request_stop(lifeline: &mut Option<PipeWriter>, children: usize) {
    if let Some(mut lifeline) = lifeline.take() {
        // Each takes one byte. It fails only when all have ended. The pipe holds 64 KiB.
        let _ = lifeline.write_all(&vec![b's'; children]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
