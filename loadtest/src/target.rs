//! Where load may go: loopback, and nowhere else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use url::{Host, Url};

use crate::error::LoadError;

/// An `http://` URL on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    address: SocketAddr,
    /// Without a slash at its end.
    path: String,
}

impl Target {
    /// Port `address` of this machine.
    pub fn at(address: SocketAddr) -> Result<Self, LoadError> {
        format!("http://{address}").parse()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The path of an endpoint under this URL's prefix; `endpoint` starts with a slash.
    pub fn path(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.path)
    }
}

impl FromStr for Target {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        let wrong = |why| LoadError::Url {
            url: text.to_owned(),
            why,
        };
        let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
        if url.scheme() != "http" {
            return Err(wrong("must start with http://"));
        }
        let ip = match url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
            // Not resolved: a resolver could be told to send it elsewhere.
            Some(Host::Domain("localhost")) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(Host::Domain(_)) | None => {
                return Err(LoadError::NotLoopback {
                    url: text.to_owned(),
                });
            }
        };
        if !ip.is_loopback() {
            return Err(LoadError::NotLoopback {
                url: text.to_owned(),
            });
        }
        let port = url.port().unwrap_or(80);
        Ok(Self {
            address: SocketAddr::new(ip, port),
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_be_loaded() {
        for text in [
            "http://127.0.0.1:8402",
            "http://localhost:8402/",
            "http://[::1]:8402/x402",
            "http://127.9.9.9",
        ] {
            assert!(text.parse::<Target>().is_ok(), "{text}");
        }
        for text in [
            "http://10.0.0.1:8402",
            "http://0.0.0.0:8402",
            "http://example.com",
            "http://127.0.0.1.example.com",
            "https://127.0.0.1",
            "ws://127.0.0.1",
            "127.0.0.1:8402",
            "",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_prefix_is_kept() {
        let target: Target = "http://localhost:8402/x402/".parse().unwrap();
        assert_eq!(target.path("/verify"), "/x402/verify");
        assert_eq!(target.to_string(), "http://127.0.0.1:8402/x402");
    }
}
