//! One payment at both doors.

use serde_json::{Value, json};
use teller_api::proto;
use teller_api::proto::facilitator_client::FacilitatorClient;
use tonic::transport::Channel;

use crate::messages::verify_request;
use crate::support::Teller;

pub type Client = FacilitatorClient<Channel>;

/// Why verify says no at both doors; demands that they say the same, there and at settle.
pub async fn refused_at_both(teller: &Teller, client: &mut Client, body: &Value) -> String {
    let (status, rest) = teller.post("/verify", body).await;
    assert_eq!((status, &rest["isValid"]), (200, &json!(false)), "{rest}");
    let grpc = client.verify(verify_request(body)).await.unwrap();
    let grpc = grpc.into_inner();
    assert!(!grpc.is_valid, "{rest}");
    assert_eq!(rest["invalidReason"], grpc.invalid_reason, "{body}");
    assert_eq!(rest["payer"], grpc.payer, "{body}");
    let (status, rest) = teller.post("/settle", body).await;
    assert_eq!((status, &rest["success"]), (200, &json!(false)), "{rest}");
    let settled = settle(client, body).await;
    assert_eq!(settled.outcome(), proto::SettleOutcome::Failed);
    assert_eq!(rest["errorReason"], settled.error_reason, "{body}");
    assert_eq!(
        (&rest["payer"], &rest["network"], &rest["transaction"]),
        (
            &json!(settled.payer),
            &json!(settled.network),
            &json!(settled.transaction)
        ),
        "{body}"
    );
    grpc.invalid_reason
}

/// Verifies and settles; demands that both say yes.
pub async fn pays(client: &mut Client, body: &Value) -> proto::SettleResponse {
    let held = client.verify(verify_request(body)).await.unwrap();
    assert!(held.get_ref().is_valid, "{held:?}");
    let settled = settle(client, body).await;
    assert_eq!(
        settled.outcome(),
        proto::SettleOutcome::Settled,
        "{settled:?}"
    );
    settled
}

pub async fn settle(client: &mut Client, body: &Value) -> proto::SettleResponse {
    let same = verify_request(body);
    let request = proto::SettleRequest {
        payment_payload: same.payment_payload,
        payment_requirements: same.payment_requirements,
        idempotency_key: String::new(),
        payment_identifier: String::new(),
    };
    client.settle(request).await.unwrap().into_inner()
}
