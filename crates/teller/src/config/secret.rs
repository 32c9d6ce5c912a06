//! Secrets are named in the configuration and kept elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256};
use alloy_signer_local::PrivateKeySigner;

/// A text that is never printed: a URL that may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A signer's private key with the account that it controls.
#[derive(Clone)]
pub struct SignerKey {
    /// The account.
    pub address: Address,
    secret: B256,
}

impl SignerKey {
    /// Reads 64 hexadecimal digits, with or without `0x`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim();
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        let mut bytes = [0_u8; 32];
        hex::decode_to_slice(digits, &mut bytes).ok()?;
        let secret = B256::from(bytes);
        let address = PrivateKeySigner::from_bytes(&secret).ok()?.address();
        Some(Self { address, secret })
    }

    /// The private key, for the one place that signs.
    pub fn expose(&self) -> B256 {
        self.secret
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignerKey({})", self.address)
    }
}

/// Where references are looked up. Passed in, so that tests and `teller dev` bring their own.
#[derive(Default)]
pub struct Secrets {
    environment: BTreeMap<String, String>,
    devnet_signers: Vec<B256>,
    directory: Option<PathBuf>,
}

impl Secrets {
    /// References to these variables, and to files beside the configuration file.
    pub fn new(
        environment: impl IntoIterator<Item = (String, String)>,
        directory: Option<&Path>,
    ) -> Self {
        Self {
            environment: environment.into_iter().collect(),
            devnet_signers: Vec::new(),
            directory: directory.map(Path::to_owned),
        }
    }

    /// Lets `devnet:N` name these keys too, which are public. Only `teller dev` does.
    pub fn with_devnet_signers(mut self, keys: Vec<B256>) -> Self {
        self.devnet_signers = keys;
        self
    }

    /// What a reference names: `None` if the text is no reference, an error that says what is missing if it is one.
    pub fn resolve(&self, text: &str) -> Option<Result<String, String>> {
        if let Some(name) = text.strip_prefix("env:") {
            let found = self.environment.get(name).filter(|text| !text.is_empty());
            return Some(
                found
                    .cloned()
                    .ok_or_else(|| format!("the environment variable {name} is not set")),
            );
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = match &self.directory {
                Some(directory) => directory.join(path),
                None => PathBuf::from(path),
            };
            return Some(
                std::fs::read_to_string(&path)
                    .map(|text| text.trim().to_owned())
                    .map_err(|error| format!("{} cannot be read: {error}", path.display())),
            );
        }
        let index = text.strip_prefix("devnet:")?;
        if self.devnet_signers.is_empty() {
            return Some(Err(
                "devnet: keys are public; only `teller dev` uses them".to_owned()
            ));
        }
        let key = index
            .parse()
            .ok()
            .and_then(|index: usize| self.devnet_signers.get(index));
        Some(
            key.map(ToString::to_string)
                .ok_or_else(|| format!("the local chain has no signer {index}")),
        )
    }
}
