//! Who is asking: API keys, kept as hashes, and the tenants behind them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use teller_domain::TenantId;

use crate::answer::ApiError;
use crate::limits::{Tenant, TenantLimits};

/// Who may call.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Everybody, as the tenant `public`, without limits.
    Open,
    /// Whoever shows one of these keys.
    Keys(Vec<ApiKey>),
}

/// A key and whose it is.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// SHA-256 of the key's text.
    pub hash: [u8; 32],
    /// The tenant. Several keys may share one, and then share its allowance.
    pub tenant: TenantId,
    /// The tenant's allowance; the first key of a tenant decides.
    pub limits: TenantLimits,
}

impl ApiKey {
    /// What [`ApiKey::hash`] holds for this key.
    pub fn hash_of(key: &str) -> [u8; 32] {
        Sha256::digest(key.as_bytes()).into()
    }
}

/// Lets requests in.
#[derive(Debug)]
pub(crate) enum Gate {
    Open(Arc<Tenant>),
    Keys(Vec<([u8; 32], Arc<Tenant>)>),
}

impl Gate {
    pub(crate) fn new(auth: Auth, now: Instant) -> Self {
        let keys = match auth {
            Auth::Open => {
                let public = Tenant::new(TenantId::new("public"), &TenantLimits::default(), now);
                return Self::Open(Arc::new(public));
            }
            Auth::Keys(keys) => keys,
        };
        let mut tenants: HashMap<TenantId, Arc<Tenant>> = HashMap::new();
        let keys = keys.into_iter().map(|key| {
            let tenant = tenants
                .entry(key.tenant.clone())
                .or_insert_with(|| Arc::new(Tenant::new(key.tenant, &key.limits, now)));
            (key.hash, tenant.clone())
        });
        Self::Keys(keys.collect())
    }

    /// The tenant behind a request, after one request was taken from its allowance.
    pub(crate) fn admit(&self, headers: &HeaderMap, now: Instant) -> Result<Arc<Tenant>, ApiError> {
        let tenant = match self {
            Self::Open(public) => public,
            Self::Keys(keys) => {
                let shown = presented_key(headers).ok_or(ApiError::Unauthenticated)?;
                let hash: [u8; 32] = Sha256::digest(shown).into();
                find(keys, &hash).ok_or(ApiError::Unauthenticated)?
            }
        };
        tenant
            .take_request(now)
            .map_err(|retry_after| ApiError::OverRate { retry_after })?;
        Ok(tenant.clone())
    }
}

/// Compares with every key, whichever matches, each in constant time.
fn find<'k>(keys: &'k [([u8; 32], Arc<Tenant>)], hash: &[u8; 32]) -> Option<&'k Arc<Tenant>> {
    keys.iter().fold(None, |found, (known, tenant)| {
        match bool::from(known.ct_eq(hash)) {
            true => Some(tenant),
            false => found,
        }
    })
}

/// `Authorization: Bearer <key>` or `X-API-Key: <key>`.
fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    bearer
        .or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))
        .map(<[u8]>::trim_ascii)
        .filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn gate() -> Gate {
        let key = |key: &str, tenant: &str, rate| ApiKey {
            hash: ApiKey::hash_of(key),
            tenant: TenantId::new(tenant),
            limits: TenantLimits {
                requests_per_second: rate,
                ..TenantLimits::default()
            },
        };
        Gate::new(
            Auth::Keys(vec![
                key("one", "alice", Some(2)),
                key("two", "alice", None),
                key("three", "bob", None),
            ]),
            Instant::now(),
        )
    }

    fn admit(gate: &Gate, name: &'static str, value: &str) -> Result<String, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        );
        gate.admit(&headers, Instant::now())
            .map(|tenant| tenant.id.to_string())
    }

    #[test]
    fn a_key_opens_in_either_header() {
        let gate = gate();
        assert_eq!(
            admit(&gate, "authorization", "Bearer three").unwrap(),
            "bob"
        );
        assert_eq!(
            admit(&gate, "authorization", "bearer  three ").unwrap(),
            "bob"
        );
        assert_eq!(admit(&gate, "x-api-key", "three").unwrap(), "bob");
    }

    #[test]
    fn anything_else_stays_out() {
        let gate = gate();
        for (name, value) in [
            ("authorization", "Basic three"),
            ("authorization", "Bearer "),
            ("authorization", "three"),
            ("x-api-key", "Three"),
            ("x-api-key", ""),
            ("x-other", "three"),
        ] {
            let denied = admit(&gate, name, value);
            assert!(
                matches!(denied, Err(ApiError::Unauthenticated)),
                "{name}: {value}"
            );
        }
        assert!(gate.admit(&HeaderMap::new(), Instant::now()).is_err());
    }

    #[test]
    fn keys_of_one_tenant_share_its_allowance() {
        let gate = gate();
        assert!(admit(&gate, "x-api-key", "one").is_ok());
        assert!(admit(&gate, "x-api-key", "two").is_ok());
        assert!(matches!(
            admit(&gate, "x-api-key", "two"),
            Err(ApiError::OverRate { .. })
        ));
        assert!(admit(&gate, "x-api-key", "three").is_ok());
    }

    #[test]
    fn an_open_gate_lets_everybody_in_as_public() {
        let gate = Gate::new(Auth::Open, Instant::now());
        let tenant = gate.admit(&HeaderMap::new(), Instant::now()).unwrap();
        assert_eq!(tenant.id.as_str(), "public");
    }
}
