//! The names of producers: an id, which may have a tag.
//!
//! The id is how a producer calls itself. The tag names the origin of its bytes, such as a file:
//! its first piece sets it, and it stays. A client that finds another tag than its own under an id
//! knows that the stream is not the one that it is about to send.

use http::StatusCode;

use super::responses::Refusal;

/// Longest name of a producer in the log, in bytes: its id, or id, separator and tag.
const NAME_BYTES_MAX: usize = 256;

/// Separates id and tag in a name. Neither has control characters. It is the least byte, so among
/// all names in order that of a producer with a tag comes right after its id.
const SEPARATOR: u8 = 0;

/// The id of a producer, and the tag that it gets if it is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerId {
    /// The name in the log of a new producer.
    name: Vec<u8>,
    /// The id as the sender gave it.
    id: String,
}

impl ProducerId {
    /// Checks an id and a tag.
    ///
    /// # Errors
    ///
    /// 400 for an empty one, one with control characters, or if both together are too long.
    pub fn new(id: String, tag: Option<String>) -> Result<ProducerId, Refusal> {
        let mut name = check("producer", &id)?.to_vec();
        if let Some(tag) = &tag {
            name.push(SEPARATOR);
            name.extend_from_slice(check("tag", tag)?);
        }
        if name.len() > NAME_BYTES_MAX {
            let most = NAME_BYTES_MAX - 1;
            let message = format!("producer and tag have at most {most} bytes together");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
        Ok(ProducerId { name, id })
    }

    /// Returns the id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the name in the log of a producer that begins with this id.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Returns the id in a name.
    pub fn id_of(name: &[u8]) -> &[u8] {
        name.split(|byte| *byte == SEPARATOR).next().unwrap_or_default()
    }

    /// Returns the tag in a name.
    pub fn tag_of(name: &[u8]) -> Option<String> {
        let at = name.iter().position(|byte| *byte == SEPARATOR)?;
        Some(String::from_utf8_lossy(&name[at + 1..]).into_owned())
    }
}

/// Checks the length and the characters of an id or a tag.
fn check<'a>(parameter: &str, value: &'a str) -> Result<&'a [u8], Refusal> {
    if value.is_empty() || value.len() > NAME_BYTES_MAX {
        let message = format!("{parameter} has 1 to {NAME_BYTES_MAX} bytes");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    if value.chars().any(char::is_control) {
        let message = format!("{parameter} has no control characters");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(value.as_bytes())
}
