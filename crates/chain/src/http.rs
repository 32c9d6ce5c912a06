//! JSON-RPC over HTTP. Like alloy's own transport, but it never puts the URL (which may hold a key) into a span, and
//! bounds the answer.

use std::task::{Context, Poll};

use alloy_json_rpc::{RequestPacket, ResponsePacket};
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use tower::Service;
use url::Url;

use crate::NodeError;

/// The longest answer that is read. A full block of logs of a busy network is a tenth of it.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// One endpoint reached over HTTP.
#[derive(Clone)]
pub(crate) struct HttpTransport {
    pub(crate) client: reqwest::Client,
    pub(crate) url: Url,
}

impl HttpTransport {
    async fn exchange(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let body = serde_json::to_vec(&request).map_err(TransportError::ser_err)?;
        let mut response = self
            .client
            .post(self.url)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await
            .map_err(broken)?;
        let status = response.status();
        let expected = response.content_length().unwrap_or(0).min(1 << 20);
        let mut body = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(TransportErrorKind::custom(NodeError::BadAnswer("too long")));
            }
            body.extend_from_slice(&chunk);
        }
        match serde_json::from_slice(&body) {
            Ok(packet) => Ok(packet),
            // Some nodes send a JSON-RPC error with an HTTP error status; that one parsed above.
            Err(_) if !status.is_success() => Err(TransportErrorKind::custom(NodeError::Http {
                status: status.as_u16(),
            })),
            Err(_) => Err(TransportErrorKind::custom(NodeError::BadAnswer("not JSON"))),
        }
    }
}

/// The error's own text holds the URL and is dropped here.
fn broken(error: reqwest::Error) -> TransportError {
    TransportErrorKind::custom(if error.is_connect() {
        NodeError::Refused
    } else if error.is_timeout() {
        NodeError::Timeout
    } else {
        NodeError::Broken
    })
}

impl Service<RequestPacket> for HttpTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().exchange(request))
    }
}
