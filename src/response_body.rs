//! The body of an HTTP response: bytes, or a stream of them.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use hyper::body::{Body, Frame, SizeHint};

/// The body of a response.
pub enum ResponseBody {
    /// Bytes that are there, and are sent at once. There are none after that.
    Whole(Bytes),
    /// Pieces that are sent when they come.
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl ResponseBody {
    /// Returns a body of no bytes.
    pub fn empty() -> ResponseBody {
        ResponseBody::Whole(Bytes::new())
    }

    /// Returns a body of these bytes.
    pub fn whole(bytes: impl Into<Bytes>) -> ResponseBody {
        ResponseBody::Whole(bytes.into())
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseBody::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.len()).finish(),
            ResponseBody::Stream(_) => f.debug_tuple("Stream").finish_non_exhaustive(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            ResponseBody::Whole(bytes) => {
                Poll::Ready(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()))
            }
            ResponseBody::Stream(stream) => stream.as_mut().poll_next(context),
        };
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Whole(bytes) if bytes.is_empty())
    }

    /// Returns the length of bytes that are there, which becomes the header of the response.
    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ResponseBody::Stream(_) => SizeHint::default(),
        }
    }
}
