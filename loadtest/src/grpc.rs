//! The same payments over gRPC. HTTP/2 connections are shared by workers, as a seller's server would share them.

use std::time::Duration;

use teller_api::proto::v1::facilitator_client::FacilitatorClient;
use teller_api::proto::v1::{
    Eip3009Authorization, ExactEip3009, PaymentPayload, PaymentRequirements, Scheme, SettleOutcome,
    SettleRequest, SettleResponse, VerifyRequest, VerifyResponse, X402Version as WireVersion,
    payment_payload,
};
use teller_domain::{X402Version, v1_name};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::drive::Op;
use crate::error::LoadError;
use crate::sign::Signed;
use crate::target::Target;
use crate::wire::{MAX_TIMEOUT_SECONDS, Outcome};

/// Requests in flight on one HTTP/2 connection; servers commonly allow 100 or more.
pub const WORKERS_A_CHANNEL: usize = 64;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A connection that many workers share.
pub async fn channel(target: &Target) -> Result<Channel, LoadError> {
    let failed = |error: tonic::transport::Error| LoadError::Connect {
        what: format!("{target}: no gRPC connection"),
        source: Box::new(error),
    };
    Endpoint::from_shared(target.to_string())
        .map_err(failed)?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .connect()
        .await
        .map_err(failed)
}

/// One worker's client.
pub struct GrpcClient {
    client: FacilitatorClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl GrpcClient {
    pub fn new(channel: Channel, api_key: Option<&str>) -> Result<Self, LoadError> {
        let authorization = api_key
            .map(|key| format!("Bearer {key}").parse())
            .transpose()
            .map_err(|_| LoadError::input("--api-key", "is no header value"))?;
        Ok(Self {
            client: FacilitatorClient::new(channel),
            authorization,
        })
    }

    pub async fn call(&mut self, op: Op, signed: &Signed) -> Outcome {
        let Some((payload, requirements)) = messages(signed) else {
            return Outcome::Unanswered {
                why: "the network has no name in x402 version 1".to_owned(),
            };
        };
        let (payment_payload, payment_requirements) = (Some(payload), Some(requirements));
        match op {
            Op::Verify => {
                let request = self.request(VerifyRequest {
                    payment_payload,
                    payment_requirements,
                    idempotency_key: String::new(),
                    payment_identifier: String::new(),
                });
                self.client.verify(request).await.map(verified)
            }
            Op::Settle => {
                let request = self.request(SettleRequest {
                    payment_payload,
                    payment_requirements,
                    idempotency_key: String::new(),
                    payment_identifier: String::new(),
                });
                self.client.settle(request).await.map(settled)
            }
        }
        .unwrap_or_else(refused)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        request
    }
}

/// A payment in the words of `teller.v1`; `None` where version 1 has no name for the network.
fn messages(signed: &Signed) -> Option<(PaymentPayload, PaymentRequirements)> {
    let (payment, asset) = (&signed.payment, signed.asset.as_ref());
    let signature = payment.authorization.signature();
    let (version, network) = match signed.version {
        X402Version::V1 => (WireVersion::V1, v1_name(asset.chain)?.to_owned()),
        X402Version::V2 => (WireVersion::V2, asset.chain.to_string()),
    };
    let authorization = Eip3009Authorization {
        from: payment.key.payer.to_string(),
        to: payment.payee.to_string(),
        value: payment.value.to_string(),
        valid_after: payment.valid_after().0,
        valid_before: payment.valid_before().0,
        nonce: payment.key.nonce.0.to_string(),
        ..Eip3009Authorization::default()
    };
    let payload = PaymentPayload {
        x402_version: version.into(),
        scheme: Scheme::Exact.into(),
        network: network.clone(),
        payload: Some(payment_payload::Payload::ExactEip3009(ExactEip3009 {
            authorization: Some(authorization),
            signature: signature.to_bytes().to_vec(),
        })),
        ..PaymentPayload::default()
    };
    let requirements = PaymentRequirements {
        scheme: Scheme::Exact.into(),
        network,
        amount: payment.value.to_string(),
        asset: asset.address.to_string(),
        pay_to: payment.payee.to_string(),
        max_timeout_seconds: MAX_TIMEOUT_SECONDS,
        eip712_name: asset.name.clone(),
        eip712_version: asset.version.clone(),
        ..PaymentRequirements::default()
    };
    Some((payload, requirements))
}

fn verified(response: Response<VerifyResponse>) -> Outcome {
    let answer = response.into_inner();
    if answer.is_valid {
        return Outcome::Accepted { transaction: None };
    }
    Outcome::Refused {
        reason: answer.invalid_reason,
    }
}

fn settled(response: Response<SettleResponse>) -> Outcome {
    let answer = response.into_inner();
    if answer.outcome() == SettleOutcome::Settled {
        return Outcome::Accepted {
            transaction: answer.transaction.parse().ok(),
        };
    }
    Outcome::Refused {
        reason: answer.error_reason,
    }
}

fn refused(status: Status) -> Outcome {
    Outcome::Refused {
        reason: format!("grpc {:?}", status.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::{Facilitator, Ops, drive};
    use crate::sign::tests::one_signed;
    use crate::sign::{ahead, tests::plan};
    use alloy_primitives::B256;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use teller_api::proto::v1::facilitator_server::{self, FacilitatorServer};
    use teller_api::proto::v1::{
        ReleaseRequest, ReleaseResponse, SupportedRequest, SupportedResponse,
    };
    use tokio_stream::wrappers::TcpListenerStream;

    type Answer<T> = Result<Response<T>, Status>;

    /// Finds everything valid that has a signature, and settles nothing.
    #[derive(Clone, Default)]
    struct Tiny {
        verified: Arc<AtomicUsize>,
    }

    #[tonic::async_trait]
    impl facilitator_server::Facilitator for Tiny {
        async fn verify(&self, request: Request<VerifyRequest>) -> Answer<VerifyResponse> {
            assert!(request.metadata().get("authorization").is_some());
            self.verified.fetch_add(1, Ordering::Relaxed);
            Ok(Response::new(VerifyResponse {
                is_valid: request.into_inner().payment_payload.is_some(),
                ..VerifyResponse::default()
            }))
        }

        async fn settle(&self, _: Request<SettleRequest>) -> Answer<SettleResponse> {
            Err(Status::unavailable("no node"))
        }

        async fn supported(&self, _: Request<SupportedRequest>) -> Answer<SupportedResponse> {
            Err(Status::unimplemented(""))
        }

        async fn release(&self, _: Request<ReleaseRequest>) -> Answer<ReleaseResponse> {
            Err(Status::unimplemented(""))
        }
    }

    #[tokio::test]
    async fn every_payment_is_sent_once_over_shared_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::at(listener.local_addr().unwrap()).unwrap();
        let tiny = Tiny::default();
        let server = tonic::transport::Server::builder()
            .add_service(FacilitatorServer::new(tiny.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let facilitator = Facilitator::Grpc {
            target,
            api_key: Some("k".to_owned()),
        };
        let payments = Arc::new(ahead(plan(), 300).await.unwrap());
        let concurrency = WORKERS_A_CHANNEL + 1;
        let at_most = Duration::from_secs(30);
        let driven = drive(
            &facilitator,
            Ops::VerifySettle,
            payments,
            concurrency,
            at_most,
        )
        .await
        .unwrap();
        assert_eq!(tiny.verified.load(Ordering::Relaxed), 300);
        let settles = driven
            .samples
            .iter()
            .filter(|sample| sample.op == Op::Settle);
        let unavailable = Outcome::Refused {
            reason: "grpc Unavailable".to_owned(),
        };
        assert_eq!(
            settles
                .filter(|sample| sample.outcome == unavailable)
                .count(),
            300
        );
    }

    #[test]
    fn messages_say_what_the_json_says() {
        let signed = one_signed();
        let (payload, required) = messages(&signed).unwrap();
        assert_eq!(payload.x402_version(), WireVersion::V2);
        assert_eq!(payload.network, "eip155:84532");
        assert_eq!(required.network, payload.network);
        assert_eq!(
            (required.amount.as_str(), payload.scheme()),
            ("10000", Scheme::Exact)
        );
        let Some(payment_payload::Payload::ExactEip3009(exact)) = payload.payload else {
            panic!("no payload");
        };
        assert_eq!(exact.signature.len(), 65);
        let authorization = exact.authorization.unwrap();
        assert_eq!(authorization.nonce.len(), 66);
        assert_eq!(authorization.to, required.pay_to);
        assert_eq!(authorization.value, required.amount);
    }

    #[test]
    fn only_settled_is_accepted() {
        let hash = B256::repeat_byte(1);
        let answer = |outcome: SettleOutcome| {
            settled(Response::new(SettleResponse {
                outcome: outcome.into(),
                error_reason: "why".to_owned(),
                transaction: hash.to_string(),
                ..SettleResponse::default()
            }))
        };
        let transaction = Some(hash);
        assert_eq!(
            answer(SettleOutcome::Settled),
            Outcome::Accepted { transaction }
        );
        let refused = Outcome::Refused {
            reason: "why".to_owned(),
        };
        assert_eq!(answer(SettleOutcome::Duplicate), refused);
        assert_eq!(answer(SettleOutcome::Pending), refused);
    }
}
