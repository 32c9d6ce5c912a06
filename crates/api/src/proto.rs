//! The gRPC messages, servers and clients of `proto/teller/v1`, generated at build time.

/// Package `teller.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    clippy::indexing_slicing
)]
pub mod v1 {
    tonic::include_proto!("teller.v1");
}

pub use v1::*;

/// The encoded descriptors of the package, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/teller.bin"));
