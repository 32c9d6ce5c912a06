//! One HTTP/1.1 keep-alive connection, read just far enough to know status and body. The generator shares its
//! cores with what it measures, so this is all the HTTP it can afford under load.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::target::Target;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 1024 * 1024;

/// Why an exchange has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("connection failed")]
    Io(#[from] std::io::Error),
    #[error("connection closed")]
    Closed,
    #[error("answer is no HTTP/1.1")]
    Malformed,
    #[error("answer too large")]
    TooLarge,
    #[error("timed out")]
    TimedOut,
}

/// What came back.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub body: BytesMut,
}

/// An open connection. After an error, or when [`reusable`](Self::reusable) is false, it must be dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    reusable: bool,
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self, ExchangeError> {
        let stream = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(target.address()))
            .await
            .map_err(|_| ExchangeError::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::with_capacity(2048),
            reusable: true,
        })
    }

    pub fn reusable(&self) -> bool {
        self.reusable
    }

    /// Sends the bytes of one whole request and reads the answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<HttpAnswer, ExchangeError> {
        // Until the answer has been read to its end, nothing else may be sent here.
        self.reusable = false;
        self.stream.write_all(request).await?;
        let head = loop {
            match find(&self.buffer, b"\r\n\r\n") {
                Some(at) => break self.buffer.split_to(at + 4),
                None if self.buffer.len() > MAX_HEAD => return Err(ExchangeError::TooLarge),
                None => self.fill().await?,
            }
        };
        let head = Head::parse(&head)?;
        let body = match head.body {
            BodyLength::Known(length) => self.take(length).await?,
            BodyLength::Chunked => self.take_chunks().await?,
        };
        self.reusable = !head.closes;
        Ok(HttpAnswer {
            status: head.status,
            body,
        })
    }

    async fn fill(&mut self) -> Result<(), ExchangeError> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(ExchangeError::Closed),
            _ => Ok(()),
        }
    }

    async fn take(&mut self, length: usize) -> Result<BytesMut, ExchangeError> {
        if length > MAX_BODY {
            return Err(ExchangeError::TooLarge);
        }
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.split_to(length))
    }

    async fn take_chunks(&mut self) -> Result<BytesMut, ExchangeError> {
        let mut body = BytesMut::new();
        loop {
            let line = loop {
                match find(&self.buffer, b"\r\n") {
                    Some(at) => break self.buffer.split_to(at + 2),
                    None if self.buffer.len() > MAX_HEAD => return Err(ExchangeError::TooLarge),
                    None => self.fill().await?,
                }
            };
            let size = std::str::from_utf8(&line)
                .ok()
                .and_then(|line| line.trim_end().split(';').next())
                .and_then(|size| usize::from_str_radix(size.trim(), 16).ok())
                .ok_or(ExchangeError::Malformed)?;
            if body.len().saturating_add(size) > MAX_BODY {
                return Err(ExchangeError::TooLarge);
            }
            let chunk = self.take(size).await?;
            body.extend_from_slice(&chunk);
            let end = self.take(2).await?;
            if end.as_ref() != b"\r\n" {
                return Err(ExchangeError::Malformed);
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

enum BodyLength {
    Known(usize),
    Chunked,
}

struct Head {
    status: u16,
    body: BodyLength,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, ExchangeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ExchangeError::Malformed)?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "))
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or(ExchangeError::Malformed)?;
        let mut head = Self {
            status,
            body: BodyLength::Known(0),
            closes: false,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let length = value.parse().map_err(|_| ExchangeError::Malformed)?;
                head.body = BodyLength::Known(length);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.body = BodyLength::Chunked;
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes = value.eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Answers every read with the next of `answers`, cut in two to see that reading goes on.
    async fn serve(answers: &'static [&'static str]) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::at(listener.local_addr().unwrap()).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            for answer in answers {
                if stream.read(&mut buffer).await.unwrap() == 0 {
                    return;
                }
                let (first, second) = answer.as_bytes().split_at(answer.len() / 2);
                stream.write_all(first).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                stream.write_all(second).await.unwrap();
            }
        });
        target
    }

    #[tokio::test]
    async fn bodies_are_read_by_length_and_by_chunk_on_one_connection() {
        let target = serve(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        ])
        .await;
        let mut connection = Connection::open(&target).await.unwrap();
        let mut got = Vec::new();
        for _ in 0..3 {
            let answer = connection
                .exchange(b"GET / HTTP/1.1\r\n\r\n")
                .await
                .unwrap();
            got.push((answer.status, answer.body.to_vec(), connection.reusable()));
        }
        assert_eq!(
            got,
            [
                (200, b"abcd".to_vec(), true),
                (200, b"abcde".to_vec(), true),
                (503, b"".to_vec(), false),
            ]
        );
    }

    #[tokio::test]
    async fn what_is_no_http_is_an_error_and_the_connection_is_spent() {
        let target = serve(&["SSH-2.0-x\r\n\r\n"]).await;
        let mut connection = Connection::open(&target).await.unwrap();
        let answer = connection.exchange(b"GET / HTTP/1.1\r\n\r\n").await;
        assert!(matches!(answer, Err(ExchangeError::Malformed)));
        assert!(!connection.reusable());
    }
}
