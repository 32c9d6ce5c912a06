//! Whether an answer reached the transport. A hold or a claimed success that reached nobody is given back.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use teller_settle::Delivery;
use teller_verify::Hold;

/// What an answer promises. Dropped undelivered, it is given back.
#[derive(Debug)]
pub(crate) enum Promise {
    /// A valid verify answer holds the payment.
    Hold(Hold),
    /// A success is told once.
    Delivery(Delivery),
}

/// Something that is kept by delivering it.
pub(crate) trait Keep: Send + Unpin + 'static {
    /// The answer was handed to the transport.
    fn delivered(self);
}

impl Keep for Promise {
    fn delivered(self) {
        match self {
            Self::Hold(hold) => hold.delivered(),
            Self::Delivery(delivery) => delivery.delivered(),
        }
    }
}

/// Carries a promise from a gRPC method to the layer that sees its response body: extensions must be `Clone`.
#[derive(Debug, Clone)]
pub(crate) struct PromiseSlot(Arc<Mutex<Option<Promise>>>);

impl PromiseSlot {
    pub(crate) fn new(promise: Promise) -> Self {
        Self(Arc::new(Mutex::new(Some(promise))))
    }

    pub(crate) fn take(&self) -> Option<Promise> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A response body that keeps its promise once the transport has taken all of its data.
///
/// hyper does not poll a body of known length again after its last byte, so the promise is kept when the last data
/// frame is taken, not at a final `None`.
pub(crate) struct PromisedBody<P> {
    inner: Body,
    left: Option<u64>,
    promise: Option<P>,
}

impl<P: Keep> PromisedBody<P> {
    pub(crate) fn wrap(inner: Body, promise: P) -> Body {
        let left = inner.size_hint().exact();
        Body::new(Self {
            inner,
            left,
            promise: Some(promise),
        })
    }

    fn keep(&mut self) {
        if let Some(promise) = self.promise.take() {
            promise.delivered();
        }
    }
}

impl<P: Keep> HttpBody for PromisedBody<P> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Pending | Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(None) => self.keep(),
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.left = self.left.map(|left| left.saturating_sub(data));
                // Trailers come last.
                if self.left == Some(0) || frame.is_trailers() || self.inner.is_end_stream() {
                    self.keep();
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Flag(Arc<AtomicBool>);

    impl Keep for Flag {
        fn delivered(self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn flagged(inner: Body) -> (Body, Arc<AtomicBool>) {
        let flag = Arc::new(AtomicBool::new(false));
        (PromisedBody::wrap(inner, Flag(flag.clone())), flag)
    }

    #[tokio::test]
    async fn taking_the_last_byte_of_a_known_length_keeps_the_promise() {
        let (mut body, kept) = flagged(Body::from("answer"));
        assert_eq!(body.size_hint().exact(), Some(6));
        assert!(!kept.load(Ordering::SeqCst));
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "answer");
        assert!(kept.load(Ordering::SeqCst));
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_must_be_read_to_its_end() {
        let chunks = ["one", "two"].map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk)));
        let (mut body, kept) = flagged(Body::from_stream(tokio_stream::iter(chunks)));
        for _ in 0..2 {
            body.frame().await.unwrap().unwrap();
            assert!(!kept.load(Ordering::SeqCst));
        }
        assert!(body.frame().await.is_none());
        assert!(kept.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_body_that_nobody_takes_keeps_nothing() {
        let (body, kept) = flagged(Body::from("answer"));
        drop(body);
        assert!(!kept.load(Ordering::SeqCst));
    }
}
