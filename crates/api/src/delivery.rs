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

impl Promise {
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
pub(crate) struct PromisedBody {
    inner: Body,
    left: Option<u64>,
    promise: Option<Promise>,
}

impl PromisedBody {
    pub(crate) fn wrap(inner: Body, promise: Promise) -> Body {
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

impl HttpBody for PromisedBody {
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
