//! Fuzz targets: what comes in by the two doors becomes a payment. Their inputs start from `crates/fuzz/corpus`.

use axum::extract::Query;
use prost::Message;
use teller_domain::{ChainId, PaymentRequest, SignedReceipt, TenantId};
use teller_fuzz::{Fuzz, Shape};
use teller_protocol::extensions::{Bazaar, Extension};
use teller_protocol::{EvmPayload, EvmRequest, Resource, Version};

use super::{offer, request};
use crate::discovery::Candidate;
use crate::view::Filters;
use crate::wire::{self, Asked, Offers, Rejection};
use crate::{answer, proto};

/// The most that is told of a refusal, in bytes.
const LONGEST_DETAIL: usize = 1_024;

fn tenant() -> TenantId {
    TenantId::new("shop")
}

/// A network of the corpus sends approvals.
fn offers() -> Offers {
    Offers {
        approvals: [ChainId(84532)].into(),
        ..Offers::default()
    }
}

fn harmless(rejection: &Rejection) {
    let detail = &rejection.refusal.detail;
    assert!(detail.len() <= LONGEST_DETAIL && rejection.network.len() <= LONGEST_DETAIL);
    let told = answer::message(detail);
    assert!(told.len() <= LONGEST_DETAIL);
}

/// All that a request says of a payment, its signature too.
fn same(one: &PaymentRequest, other: &PaymentRequest) {
    assert_eq!(one.payment, other.payment);
    assert_eq!(one.payment.digest(), other.payment.digest());
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

/// A body that REST reads as a payment is, as a message, the same payment by gRPC.
#[test]
fn both_doors_see_one_payment() {
    Fuzz::new("payment", Shape::Json).run(|data| {
        let asked = match wire::read(data, &offers(), &tenant(), None) {
            Ok(asked) => asked,
            Err(rejection) => {
                harmless(&rejection);
                return false;
            }
        };
        let request = EvmRequest::read(data, Offers::default().served()).unwrap();
        let sent = request.extensions.payment_identifier.present();
        let has_identifier = sent.is_some_and(|sent| sent.id.is_some());
        assert_eq!(asked.payment_identifier.is_some(), has_identifier);
        let _ = Candidate::of(&mut asked.clone());

        if let Some(message) = message(&request) {
            if let (Version::V2, Extension::Present(listed)) =
                (request.version, &request.discoverable)
            {
                let found = offer::offered(
                    message.payment_payload.as_ref(),
                    message.payment_requirements.as_ref(),
                );
                let mut found = found.present().unwrap().clone();
                found.requirements.clone_from(&listed.requirements);
                assert_eq!(found, *listed);
            }
            let bytes = message.encode_to_vec();
            let asked_again = read_message(&bytes).unwrap();
            assert_eq!(asked_again.network, asked.network);
            same(&asked.request, &asked_again.request);
        }
        true
    });
}

/// The message that says the same, where there is one.
fn message(request: &EvmRequest) -> Option<proto::VerifyRequest> {
    let EvmPayload::Eip3009(signed) = &request.payload else {
        return None;
    };
    let authorization = proto::Eip3009Authorization {
        from: signed.from.to_string(),
        to: signed.to.to_string(),
        value: signed.value.to_string(),
        valid_after_decimal: signed.valid_after.to_string(),
        valid_before_decimal: signed.valid_before.to_string(),
        nonce: signed.nonce.to_string(),
        ..proto::Eip3009Authorization::default()
    };
    let version = match request.version {
        Version::V1 => proto::X402Version::V1,
        Version::V2 => proto::X402Version::V2,
    };
    let exact = proto::ExactEip3009 {
        authorization: Some(authorization),
        signature: signed.signature.to_vec(),
    };
    let mut extensions = proto::Extensions::default();
    if let Extension::Present(code) = &request.extensions.builder_code {
        extensions.builder_code = Some(proto::BuilderCode {
            app: code.app.clone().unwrap_or_default(),
            services: code.services.clone(),
        });
    }
    if let Extension::Present(bazaar) = &request.extensions.bazaar {
        extensions.bazaar = Some(offered(bazaar));
    }
    let demanded = &request.requirements;
    Some(proto::VerifyRequest {
        payment_payload: Some(proto::PaymentPayload {
            x402_version: version.into(),
            scheme: proto::Scheme::Exact.into(),
            network: request.network.clone(),
            payload: Some(proto::payment_payload::Payload::ExactEip3009(exact)),
            extensions: Some(extensions),
            resource: request.resource.as_ref().map(resource),
        }),
        payment_requirements: Some(proto::PaymentRequirements {
            scheme: proto::Scheme::Exact.into(),
            network: demanded.network.clone(),
            amount: demanded.amount.to_string(),
            asset: demanded.asset.to_string(),
            pay_to: demanded.pay_to.to_string(),
            max_timeout_seconds: demanded.max_timeout_seconds,
            eip712_name: demanded.extra.name.clone().unwrap_or_default(),
            eip712_version: demanded.extra.version.clone().unwrap_or_default(),
            ..proto::PaymentRequirements::default()
        }),
        ..proto::VerifyRequest::default()
    })
}

fn offered(bazaar: &Bazaar) -> proto::Bazaar {
    proto::Bazaar {
        info_json: bazaar.info.clone(),
        schema_json: bazaar.schema.clone(),
        route_template: bazaar.route_template.clone().unwrap_or_default(),
    }
}

fn resource(resource: &Resource) -> proto::Resource {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    proto::Resource {
        url: resource.url.clone(),
        description: text(&resource.description),
        mime_type: text(&resource.mime_type),
        service_name: text(&resource.service_name),
        tags: resource.tags.clone(),
        icon_url: text(&resource.icon_url),
    }
}

fn read_message(bytes: &[u8]) -> Option<Asked> {
    let message = proto::VerifyRequest::decode(bytes).ok()?;
    let offers = offers();
    let (payload, requirements) = (message.payment_payload, message.payment_requirements);
    let asked = request::read(payload, requirements, offers.served())
        .map_err(Rejection::from)
        .and_then(|request| wire::into_domain(request, &offers, &tenant(), None));
    asked.inspect_err(harmless).ok()
}

/// A message that is read as a payment is the same payment when it is written and read again.
#[test]
fn a_message_is_read_in_one_way() {
    Fuzz::new("message", Shape::Bytes)
        .executions(50_000)
        .run(|data| {
            let Some(asked) = read_message(data) else {
                return false;
            };
            let again = proto::VerifyRequest::decode(data).unwrap().encode_to_vec();
            same(&asked.request, &read_message(&again).unwrap().request);
            true
        });
}

/// The filters of a listing are what they say, or are refused in few words.
#[test]
fn a_query_is_read_or_refused() {
    Fuzz::new("query", Shape::Bytes)
        .executions(50_000)
        .run(|data| {
            let text = String::from_utf8_lossy(data);
            let Ok(uri) = format!("/settlements?{text}").parse() else {
                return false;
            };
            let Ok(Query(filters)) = Query::<Filters>::try_from_uri(&uri) else {
                return false;
            };
            match filters.query() {
                Ok(query) => assert!((1..=500).contains(&query.limit) && query.tenant.is_none()),
                Err(answer::ApiError::BadRequest(detail)) => {
                    assert!(detail.len() <= LONGEST_DETAIL)
                }
                Err(other) => panic!("{other}"),
            }
            true
        });
}

/// A receipt that is read is written as one that reads the same, and over what it says one signature is asked for.
#[test]
fn a_receipt_is_read_in_one_way() {
    Fuzz::new("receipt", Shape::Json).run(|data| {
        let Ok(receipt) = serde_json::from_slice::<SignedReceipt>(data) else {
            return false;
        };
        let text = serde_json::to_string(&receipt).unwrap();
        assert_eq!(
            serde_json::from_str::<SignedReceipt>(&text).unwrap(),
            receipt
        );
        match receipt.signed() {
            Ok((digest, signature)) => {
                assert_eq!(digest, receipt.receipt().digest());
                assert_eq!(signature.to_bytes()[..], receipt.signature()[..]);
            }
            Err(error) => assert!(error.to_string().len() <= LONGEST_DETAIL),
        }
        true
    });
}
