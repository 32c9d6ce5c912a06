//! From the messages of `teller.v1` to the request that REST reads from JSON: same fields, same faults.

use alloy_primitives::{Bytes, U256};
use teller_protocol::extensions::{
    BuilderCodeInfo, Eip2612GasSponsoring, Erc20ApprovalGasSponsoring, Extension, Extensions,
    MAX_SIGNED_TRANSACTION_BYTES,
};
use teller_protocol::field::{self, FieldError};
use teller_protocol::{
    AssetTransferMethod, Eip3009Payload, Erc7710Payload, EvmPayload, EvmRequest, EvmScheme, Extra,
    Fault, MAX_PERMISSION_CONTEXT_BYTES, PaymentRequirements, Permit2Payload, ReadError, Served,
    Version, WrongKind,
};

use crate::proto;
use crate::proto::payment_payload::Payload;

struct Problem(Fault, String);

type Found<T> = Result<T, Problem>;

/// A message with the path that leads to it and the fault of whatever is wrong inside.
struct Place {
    path: String,
    fault: Fault,
}

impl Place {
    fn of(path: &str, fault: Fault) -> Self {
        let path = path.to_owned();
        Self { path, fault }
    }

    fn wrong(&self, field: &str, problem: &'static str) -> Problem {
        let path = format!("{}.{field}", self.path);
        Problem(self.fault, FieldError::new(path, problem).to_string())
    }

    fn message<T>(&self, field: &str, message: Option<T>) -> Found<(Self, T)> {
        let message = message.ok_or_else(|| self.wrong(field, "is missing"))?;
        Ok((
            Self::of(&format!("{}.{field}", self.path), self.fault),
            message,
        ))
    }

    fn text<T>(
        &self,
        field: &str,
        text: &str,
        read: fn(&str) -> Result<T, &'static str>,
    ) -> Found<T> {
        read(text).map_err(|problem| self.wrong(field, problem))
    }

    fn signature(&self, bytes: Vec<u8>) -> Found<Bytes> {
        match bytes.len() > field::MAX_SIGNATURE_BYTES {
            true => Err(self.wrong("signature", "is longer than 8192 bytes")),
            false => Ok(bytes.into()),
        }
    }
}

/// Reads what `Verify`, `Settle` and `Release` have in common, if it asks for a way of paying that is `served`.
pub(super) fn read(
    payload: Option<proto::PaymentPayload>,
    requirements: Option<proto::PaymentRequirements>,
    served: Served,
) -> Result<EvmRequest, ReadError> {
    let missing = |what: &str| ReadError {
        fault: Fault::Body,
        detail: format!("{what} is missing"),
        payer: None,
        network: String::new(),
    };
    let payload = payload.ok_or_else(|| missing("payment_payload"))?;
    let requirements = requirements.ok_or_else(|| missing("payment_requirements"))?;
    let network = requirements.network.clone();
    let payer = from_of(&payload).and_then(|from| field::address(from).ok());
    read_both(payload, requirements, served).map_err(|Problem(fault, detail)| ReadError {
        fault,
        detail,
        payer,
        network,
    })
}

fn from_of(payload: &proto::PaymentPayload) -> Option<&str> {
    match payload.payload.as_ref()? {
        Payload::ExactEip3009(exact) => Some(&exact.authorization.as_ref()?.from),
        Payload::Permit2(permit) => Some(&permit.permit2_authorization.as_ref()?.from),
        Payload::Erc7710(delegation) => Some(&delegation.delegator),
    }
}

fn kind_of(payload: &Payload) -> AssetTransferMethod {
    match payload {
        Payload::ExactEip3009(_) => AssetTransferMethod::Eip3009,
        Payload::Permit2(_) => AssetTransferMethod::Permit2,
        Payload::Erc7710(_) => AssetTransferMethod::Erc7710,
    }
}

fn read_both(
    payload: proto::PaymentPayload,
    demanded: proto::PaymentRequirements,
    served: Served,
) -> Found<EvmRequest> {
    let sent = Place::of("payment_payload", Fault::Payload);
    let version = match payload.x402_version() {
        proto::X402Version::V1 => Version::V1,
        proto::X402Version::V2 => Version::V2,
        proto::X402Version::Unspecified => {
            let problem = sent.wrong("x402_version", "must be V1 or V2");
            return Err(Problem(Fault::Version, problem.1));
        }
    };
    let served = served.in_version(version);
    let scheme = scheme(demanded.scheme())
        .filter(|scheme| served.has(*scheme))
        .ok_or_else(|| {
            let detail = "payment_requirements.scheme is not supported";
            Problem(Fault::Scheme, detail.into())
        })?;
    if self::scheme(payload.scheme()) != Some(scheme) {
        let fault = scheme.mismatch(payload.payload.as_ref().map(kind_of));
        let detail = format!("payment_payload.scheme is not {}", scheme.as_str());
        return Err(Problem(fault, detail));
    }
    let facilitator = demanded.facilitator_address.clone();
    let (place, requirements) = requirements(scheme, demanded)?;
    let facilitator_address = match &*facilitator {
        "" => None,
        text => Some(place.text("facilitator_address", text, field::address)?),
    };
    let (_, signed) = sent.message("payload", payload.payload)?;
    served
        .check(
            scheme,
            kind_of(&signed),
            requirements.extra.asset_transfer_method,
        )
        .map_err(|wrong| {
            let detail = match wrong {
                WrongKind::NotServed => {
                    "payment_payload.payload is of a kind that is not supported"
                }
                WrongKind::NotDemanded => {
                    "payment_requirements.asset_transfer_method is not the payload's kind"
                }
            };
            Problem(Fault::PayloadKind, detail.into())
        })?;
    let signed = match signed {
        Payload::ExactEip3009(exact) => EvmPayload::Eip3009(eip3009(exact)?),
        Payload::Permit2(permit) => EvmPayload::Permit2(permit2(scheme, permit)?),
        Payload::Erc7710(delegation) => EvmPayload::Erc7710(erc7710(delegation)?),
    };
    Ok(EvmRequest {
        version,
        scheme,
        network: payload.network,
        payload: signed,
        requirements,
        facilitator_address,
        resource: None,
        extensions: match version {
            Version::V1 => Extensions::default(),
            Version::V2 => extensions(payload.extensions.unwrap_or_default()),
        },
        discoverable: Extension::Absent,
    })
}

pub(super) fn scheme(scheme: proto::Scheme) -> Option<EvmScheme> {
    match scheme {
        proto::Scheme::Unspecified => None,
        proto::Scheme::Exact => Some(EvmScheme::Exact),
        proto::Scheme::Upto => Some(EvmScheme::Upto),
    }
}

fn requirements(
    scheme: EvmScheme,
    demanded: proto::PaymentRequirements,
) -> Found<(Place, PaymentRequirements)> {
    let place = Place::of("payment_requirements", Fault::Requirements);
    let method = match proto::AssetTransferMethod::try_from(demanded.asset_transfer_method) {
        Ok(proto::AssetTransferMethod::Unspecified) => None,
        Ok(proto::AssetTransferMethod::Eip3009) => Some(AssetTransferMethod::Eip3009),
        Ok(proto::AssetTransferMethod::Permit2) => Some(AssetTransferMethod::Permit2),
        Ok(proto::AssetTransferMethod::Erc7710) => Some(AssetTransferMethod::Erc7710),
        Err(_) => Some(AssetTransferMethod::Other),
    };
    let requirements = PaymentRequirements {
        scheme: scheme.as_str().into(),
        amount: place.text("amount", &demanded.amount, field::unsigned)?,
        asset: place.text("asset", &demanded.asset, field::address)?,
        pay_to: place.text("pay_to", &demanded.pay_to, field::address)?,
        network: demanded.network,
        max_timeout_seconds: demanded.max_timeout_seconds,
        extra: Extra {
            name: Some(demanded.eip712_name).filter(|name| !name.is_empty()),
            version: Some(demanded.eip712_version).filter(|version| !version.is_empty()),
            asset_transfer_method: method,
        },
    };
    Ok((place, requirements))
}

fn eip3009(exact: proto::ExactEip3009) -> Found<Eip3009Payload> {
    let outer = Place::of("payment_payload.exact_eip3009", Fault::Payload);
    let (place, signed) = outer.message("authorization", exact.authorization)?;
    Ok(Eip3009Payload {
        from: place.text("from", &signed.from, field::address)?,
        to: place.text("to", &signed.to, field::address)?,
        value: place.text("value", &signed.value, field::unsigned)?,
        valid_after: moment(
            &place,
            "valid_after_decimal",
            &signed.valid_after_decimal,
            signed.valid_after,
        )?,
        valid_before: moment(
            &place,
            "valid_before_decimal",
            &signed.valid_before_decimal,
            signed.valid_before,
        )?,
        nonce: place.text("nonce", &signed.nonce, field::bytes32)?,
        signature: outer.signature(exact.signature)?,
    })
}

/// The text where there is one, else the number beside it.
fn moment(place: &Place, field: &str, text: &str, number: u64) -> Found<U256> {
    match (text, number) {
        ("", _) => Ok(U256::from(number)),
        (_, 0) => place.text(field, text, field::unsigned),
        _ => Err(place.wrong(field, "contradicts the number of 64 bits")),
    }
}

fn permit2(scheme: EvmScheme, permit: proto::Permit2Payload) -> Found<Permit2Payload> {
    let outer = Place::of("payment_payload.permit2", scheme.malformed());
    let (place, signed) = outer.message("permit2_authorization", permit.permit2_authorization)?;
    let (of_token, permitted) = place.message("permitted", signed.permitted)?;
    let (beside, witness) = place.message("witness", signed.witness)?;
    Ok(Permit2Payload {
        from: place.text("from", &signed.from, field::address)?,
        token: of_token.text("token", &permitted.token, field::address)?,
        amount: of_token.text("amount", &permitted.amount, field::unsigned)?,
        spender: place.text("spender", &signed.spender, field::address)?,
        nonce: place.text("nonce", &signed.nonce, field::unsigned)?,
        deadline: place.text("deadline", &signed.deadline, field::unsigned)?,
        to: beside.text("to", &witness.to, field::address)?,
        facilitator: match scheme {
            EvmScheme::Exact => None,
            EvmScheme::Upto => {
                Some(beside.text("facilitator", &witness.facilitator, field::address)?)
            }
        },
        valid_after: beside.text("valid_after", &witness.valid_after, field::unsigned)?,
        signature: outer.signature(permit.signature)?,
    })
}

fn erc7710(sent: proto::Erc7710Payload) -> Found<Erc7710Payload> {
    let place = Place::of("payment_payload.erc7710", Fault::Payload);
    if sent.permission_context.len() > MAX_PERMISSION_CONTEXT_BYTES {
        return Err(place.wrong("permission_context", "is longer than 16384 bytes"));
    }
    Ok(Erc7710Payload {
        manager: place.text(
            "delegation_manager",
            &sent.delegation_manager,
            field::address,
        )?,
        delegator: place.text("delegator", &sent.delegator, field::address)?,
        permission_context: sent.permission_context.into(),
    })
}

fn extensions(sent: proto::Extensions) -> Extensions {
    Extensions {
        eip2612_gas_sponsoring: found(sent.eip2612_gas_sponsoring.map(token_permit)),
        erc20_approval_gas_sponsoring: found(
            sent.erc20_approval_gas_sponsoring.map(token_approval),
        ),
        builder_code: sent
            .builder_code
            .and_then(|sent| {
                let app = Some(sent.app);
                BuilderCodeInfo::of(app, sent.services)
            })
            .map_or(Extension::Absent, Extension::Present),
        ..Extensions::default()
    }
}

fn found<T>(read: Option<Found<Option<T>>>) -> Extension<T> {
    match read {
        None | Some(Ok(None)) => Extension::Absent,
        Some(Ok(Some(extension))) => Extension::Present(extension),
        Some(Err(Problem(_, detail))) => Extension::Malformed(detail),
    }
}

/// Absent unless every field is set.
fn token_approval(
    sent: proto::Erc20ApprovalGasSponsoring,
) -> Found<Option<Erc20ApprovalGasSponsoring>> {
    let place = Place::of(
        "payment_payload.extensions.erc20_approval_gas_sponsoring",
        Fault::Payload,
    );
    let texts = [
        &sent.from,
        &sent.asset,
        &sent.spender,
        &sent.amount,
        &sent.version,
    ];
    if texts.into_iter().any(String::is_empty) || sent.signed_transaction.is_empty() {
        return Ok(None);
    }
    place.text("version", &sent.version, field::version)?;
    if sent.signed_transaction.len() > MAX_SIGNED_TRANSACTION_BYTES {
        return Err(place.wrong("signed_transaction", "is longer than 1024 bytes"));
    }
    Ok(Some(Erc20ApprovalGasSponsoring {
        from: place.text("from", &sent.from, field::address)?,
        asset: place.text("asset", &sent.asset, field::address)?,
        spender: place.text("spender", &sent.spender, field::address)?,
        amount: place.text("amount", &sent.amount, field::decimal)?,
        signed_transaction: sent.signed_transaction.into(),
    }))
}

/// Absent unless every field is set.
fn token_permit(sent: proto::Eip2612GasSponsoring) -> Found<Option<Eip2612GasSponsoring>> {
    let place = Place::of(
        "payment_payload.extensions.eip2612_gas_sponsoring",
        Fault::Payload,
    );
    let texts = [
        &sent.from,
        &sent.asset,
        &sent.spender,
        &sent.amount,
        &sent.nonce,
        &sent.deadline,
        &sent.version,
    ];
    if texts.into_iter().any(String::is_empty) || sent.signature.is_empty() {
        return Ok(None);
    }
    place.text("version", &sent.version, field::version)?;
    Ok(Some(Eip2612GasSponsoring {
        from: place.text("from", &sent.from, field::address)?,
        asset: place.text("asset", &sent.asset, field::address)?,
        spender: place.text("spender", &sent.spender, field::address)?,
        amount: place.text("amount", &sent.amount, field::decimal)?,
        nonce: place.text("nonce", &sent.nonce, field::decimal)?,
        deadline: place.text("deadline", &sent.deadline, field::decimal)?,
        signature: place.signature(sent.signature)?,
    }))
}

#[cfg(test)]
mod tests;
