//! The body of an HTTP response: bytes, or a stream of them.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;

/// The body of a response.
pub type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// Returns a body of no bytes.
pub fn empty() -> ResponseBody {
    Empty::new().boxed_unsync()
}

/// Returns a body of these bytes.
pub fn whole(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).boxed_unsync()
}

/// Returns a body of pieces that are sent when they come.
pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> ResponseBody {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}
