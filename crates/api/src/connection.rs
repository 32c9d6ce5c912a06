//! What one connection may cost before its requests are known to be anybody's: HTTP/2 carries thousands of them at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Extensions;
use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::ApiError;

/// Calls of a gRPC connection that show no key and are in progress.
const STRANGERS: usize = 32;
/// Bytes of a connection's bodies that have not arrived whole, all its requests together.
const ARRIVING_BYTES: usize = 4 * 1024 * 1024;

/// One connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    strangers: Arc<Semaphore>,
    arriving: Arc<AtomicUsize>,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            arriving: Arc::default(),
        }
    }
}

impl Connection {
    /// The connection that a request came by; one of its own for a request that came by none.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// A place for a call that shows no key.
    pub(crate) fn stranger(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let places = self.strangers.clone();
        places.try_acquire_owned().map_err(|_| ApiError::Overloaded)
    }

    /// A whole body of at most so many bytes. What a length header or a message announces costs nothing.
    pub(crate) async fn read(&self, body: &mut Body, most: usize) -> Result<Bytes, ApiError> {
        if body.size_hint().lower() > most as u64 {
            return Err(ApiError::BodyTooLarge);
        }
        let mut arriving = Arriving {
            all: &self.arriving,
            bytes: 0,
        };
        // Copied, because a piece of a few bytes keeps the whole buffer that it was read into.
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::BodyBroken)?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if whole.len().saturating_add(data.len()) > most {
                return Err(ApiError::BodyTooLarge);
            }
            arriving.add(data.len())?;
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }
}

/// Bytes of one body while it arrives.
struct Arriving<'c> {
    all: &'c AtomicUsize,
    bytes: usize,
}

impl Arriving<'_> {
    fn add(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.bytes += bytes;
        let before = self.all.fetch_add(bytes, Ordering::Relaxed);
        match before.saturating_add(bytes) > ARRIVING_BYTES {
            true => Err(ApiError::Overloaded),
            false => Ok(()),
        }
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[tokio::test]
    async fn bodies_that_arrive_are_counted_until_they_end() {
        let connection = Connection::default();
        let whole = connection.read(&mut Body::from("1234"), 4).await.unwrap();
        assert_eq!(whole, "1234");
        let too_large = connection.read(&mut Body::from("12345"), 4).await;
        assert_eq!(too_large, Err(ApiError::BodyTooLarge));

        // All but the last byte of each, for as long as anybody waits.
        const PIECE: usize = 64 * 1024;
        let unfinished = || {
            let first = futures::stream::iter([Ok::<_, Infallible>(Bytes::from(vec![0; PIECE]))]);
            Body::from_stream(futures::StreamExt::chain(first, futures::stream::pending()))
        };
        let readers: Vec<_> = (0..ARRIVING_BYTES / PIECE)
            .map(|_| {
                let connection = connection.clone();
                tokio::spawn(async move { connection.read(&mut unfinished(), PIECE + 1).await })
            })
            .collect();
        while connection.arriving.load(Ordering::Relaxed) < ARRIVING_BYTES {
            tokio::task::yield_now().await;
        }
        let one_more = connection.read(&mut unfinished(), PIECE + 1).await;
        assert_eq!(one_more, Err(ApiError::Overloaded));
        for reader in readers {
            reader.abort();
            assert!(reader.await.is_err());
        }
        assert_eq!(connection.arriving.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn few_calls_without_a_key_are_in_progress() {
        let connection = Connection::default();
        let places: Vec<_> = (0..STRANGERS).map(|_| connection.stranger()).collect();
        assert!(places.iter().all(Result::is_ok));
        assert!(connection.stranger().is_err());
        drop(places);
        assert!(connection.stranger().is_ok());
    }
}
