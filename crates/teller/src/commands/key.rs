//! `teller key new`.

use alloy_primitives::B256;
use sha2::{Digest, Sha256};

use super::Failure;
use crate::config::parse_tenant;

/// Prints a fresh key and the configuration that admits it. The key itself is kept nowhere.
pub fn new(tenant: &str) -> Result<(), Failure> {
    let tenant = parse_tenant(tenant).ok_or_else(|| {
        Failure::text("a tenant's name is 1 to 64 letters, digits, dots, dashes or underscores")
    })?;
    let key = format!("teller_{}", hex::encode(B256::random()));
    let hash = hex::encode(Sha256::digest(key.as_bytes()));
    println!(
        "key for {tenant}, shown this once; callers send it as `Authorization: Bearer {key}`\n"
    );
    println!("  {key}\n");
    println!("for the configuration:\n");
    println!("  [[server.keys]]\n  tenant = \"{tenant}\"\n  sha256 = \"{hash}\"");
    Ok(())
}
