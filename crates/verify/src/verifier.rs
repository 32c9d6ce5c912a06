//! The pipeline.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy_primitives::U256;
use teller_chain::{BundledCall, InspectItem, Inspection, NodeError, Simulation};
use teller_domain::{
    AssetAmount, Authorization, AuthorizationKey, PayerSignature, Payment, PaymentDigest,
    PaymentRequest, Reason, Refusal, TenantId, TopUpPolicy, UnixMillis, UnixSeconds, Wei,
};
use teller_schemes::erc20_approval::Approval;
use teller_store::{
    Boundary, HoldPurpose, Ledger, Reservations, ReserveOutcome, ReserveRequest, StoreError,
};
use tokio::time::timeout;

use crate::checks::check_request;
use crate::findings::{check_codeless, check_inspection, signed_by_key};
use crate::fresh::{Fresh, Judge, Reading};
use crate::hold::{GiveBack, Hold, hold_clock};
use crate::meters::{Stage, count_elsewhere};
use crate::network::Network;
use crate::{CheckError, Policy, Verdict, VerifyNetwork, approvals};

/// How long the chain's state may take to read.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// How long a look at the head may take before a payment is refused.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);
/// How long a settle waits for reservations that do not answer.
const SETTLE_RESERVE_DEADLINE: Duration = Duration::from_secs(3);
/// A nonce hold is never longer, however far `validBefore` is.
const LONGEST_NONCE_HOLD_MS: u64 = 24 * 60 * 60 * 1000;

struct Inner {
    networks: Vec<Network>,
    policy: Policy,
    reservations: Arc<dyn Reservations>,
    ledger: Arc<dyn Ledger>,
    fresh: Fresh,
}

/// Verifies payments on all configured networks. Cheap to clone.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chains = self.0.networks.iter().map(|network| network.chain);
        f.debug_list().entries(chains).finish()
    }
}

/// Why there is no valid verdict.
enum Stop {
    Refused(Refusal),
    Unknown(CheckError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<CheckError> for Stop {
    fn from(error: CheckError) -> Self {
        Self::Unknown(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Unknown(error.into())
    }
}

impl Verifier {
    /// A verifier of these networks. The ledger tells who was topped up.
    pub fn new(
        networks: Vec<VerifyNetwork>,
        policy: Policy,
        reservations: Arc<dyn Reservations>,
        ledger: Arc<dyn Ledger>,
    ) -> Self {
        Self(Arc::new(Inner {
            networks: networks.into_iter().map(Network::from).collect(),
            policy,
            reservations,
            ledger,
            fresh: Fresh::default(),
        }))
    }

    /// Checks a payment and reserves it for a later settle. Runs to its end or reserves nothing lasting: a hold that
    /// was granted is given back when the verdict is dropped.
    pub async fn verify(&self, request: &PaymentRequest) -> Verdict {
        let lenient = self.0.policy.is_lenient(&request.tenant);
        self.check(request, HoldPurpose::Verify { lenient }).await
    }

    /// Checks whatever may have gone stale since verify, or all of it if there was none, and reserves as settling.
    /// The holds of a valid verdict stay; dropping it gives nothing back once [`Hold::delivered`] was called, which the
    /// caller does when the ledger has accepted the payment. When reservations do not answer, a good payment is valid
    /// without a hold.
    pub async fn check_for_settle(&self, request: &PaymentRequest) -> Verdict {
        self.check(request, HoldPurpose::Settle).await
    }

    /// Gives a verified payment's holds back to its tenant; `false` if the tenant had none.
    ///
    /// # Errors
    /// When the store of reservations does not answer.
    pub async fn release(
        &self,
        tenant: &TenantId,
        key: AuthorizationKey,
        digest: PaymentDigest,
    ) -> Result<bool, StoreError> {
        self.0
            .reservations
            .release(key, tenant, digest, hold_clock())
            .await
    }

    async fn check(&self, request: &PaymentRequest, purpose: HoldPurpose) -> Verdict {
        let chain = request.payment.key.chain;
        let network = self.0.networks.iter().find(|known| known.chain == chain);
        let Some(network) = network else {
            let verdict = Verdict::Invalid(Refusal::new(
                Reason::InvalidNetwork,
                format!("{chain} is not served here"),
            ));
            count_elsewhere(&verdict);
            return verdict;
        };
        let started = Instant::now();
        let verdict = match self.0.run_at_newest(network, request, purpose).await {
            Ok(hold) => Verdict::Valid(hold),
            Err(Stop::Refused(refusal)) => Verdict::Invalid(refusal),
            Err(Stop::Unknown(error)) => {
                tracing::debug!(%chain, %error, "a payment could not be checked");
                Verdict::Unknown(error)
            }
        };
        network.meters.stage(Stage::Total, started);
        network.meters.verdict(&verdict);
        verdict
    }
}

impl Inner {
    /// A payer who has just funded, approved or waited may know of a block that is not known here yet. So before a payment
    /// is refused for what was read of the chain, the head is looked at once more, and if there is a newer one, the payment
    /// is, too.
    async fn run_at_newest(
        &self,
        network: &Network,
        request: &PaymentRequest,
        purpose: HoldPurpose,
    ) -> Result<Hold, Stop> {
        let before = network.heads.latest().map(|head| head.block.hash);
        let verdict = self.run(network, request, purpose, 0).await;
        match &verdict {
            Err(Stop::Refused(refusal)) if may_be_outdated(refusal.reason) => {}
            _ => return verdict,
        }
        match network.heads.look_again(LOOK_DEADLINE).await {
            Some(newest) if Some(newest.block.hash) != before => {
                self.run(network, request, purpose, newest.block.number)
                    .await
            }
            Some(_) | None => verdict,
        }
    }

    /// What was found out at a block below `not_before` does not count.
    async fn run(
        &self,
        network: &Network,
        request: &PaymentRequest,
        purpose: HoldPurpose,
        not_before: u64,
    ) -> Result<Hold, Stop> {
        let started = Instant::now();
        let unknown = || {
            Stop::Unknown(CheckError::Node {
                chain: network.chain,
            })
        };
        let head = network.heads.first(READ_DEADLINE).await;
        let head = head.map_err(|_| unknown())?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = UnixSeconds(wall.unwrap_or_default().as_secs());
        network
            .heads
            .check(&head, wall)
            .map_err(|doubt| CheckError::Head {
                chain: network.chain,
                doubt,
            })?;
        let now = head.chain_time();
        let known = check_request(network, &self.policy, request, purpose, now)?;
        let started = network.meters.stage(Stage::Checks, started);

        let digest = request.payment.digest();
        let fresh = match purpose {
            HoldPurpose::Verify { .. } => None,
            HoldPurpose::Settle => self
                .fresh
                .get(digest, head.block.number, started)
                .filter(|reading| reading.block >= not_before),
        };
        let (reading, started) = match fresh {
            // The digest covers everything that was signed and the signature.
            Some(reading) => (reading, started),
            None => {
                let by_key = signed_by_key(known, &request.payment);
                if by_key {
                    self.policy.wants_payee(&request.payment)?;
                }
                let started = network.meters.stage(Stage::Signature, started);
                let reading = match self.read(network, &request.payment, by_key).await {
                    Err(Stop::Refused(refusal)) if spent_by_another(&refusal, purpose) => {
                        return self
                            .resume(request, digest, head.block.number, now, refusal)
                            .await;
                    }
                    reading => reading?,
                };
                let started = network.meters.stage(Stage::Chain, started);
                if reading.judge == Judge::Key {
                    self.fresh.insert(digest, reading, started);
                }
                (reading, started)
            }
        };
        self.policy.wants_payee(&request.payment)?;
        let hold = self.reserve(request, purpose, digest, reading, now).await;
        let hold = match hold {
            Err(Stop::Unknown(CheckError::Store(error)))
                if purpose == HoldPurpose::Settle && error.is_retryable() =>
            {
                // The ledger's unique key decides alone (DESIGN section 3.1, last paragraph).
                tracing::warn!(chain = %network.chain, %error, "a settle goes on without a hold");
                network.meters.settle_without_hold();
                Ok(Hold::absent(request.payment.key.payer))
            }
            hold => hold,
        };
        let hold = hold.map(|hold| hold.judged_by(reading.judge));
        network.meters.stage(Stage::Reserve, started);
        hold
    }

    /// The chain's state and a simulation of the very call that would settle the payment, at one block. What a payer with
    /// code sent is for its code to judge, whatever it looks like.
    async fn read(
        &self,
        network: &Network,
        payment: &Payment,
        by_key: bool,
    ) -> Result<Reading, Stop> {
        // A payment of nothing makes no call; the payer must have allowed one all the same.
        let whole = payment.charges_nothing().then(|| Payment {
            value: payment.permitted(),
            ..payment.clone()
        });
        let payment = whole.as_ref().unwrap_or(payment);
        let item = InspectItem::of(payment, network.multicall3);
        let first = match payment.authorization.signature() {
            PayerSignature::Ecdsa { .. } | PayerSignature::Contract(_) => item,
            // Nobody is called before it is known that this has to be.
            PayerSignature::Counterfactual(_) => item.without_call(),
        };
        let mut inspection = self.inspect(network, first).await?;
        let judge = match payment.authorization.signature() {
            _ if inspection.code_size > 0 => Judge::PayersCode,
            PayerSignature::Ecdsa { .. } => Judge::Key,
            PayerSignature::Contract(_) | PayerSignature::Counterfactual(_) => Judge::NewCode,
        };
        let mut judged = Cow::Borrowed(payment);
        if judge == Judge::PayersCode {
            judged.to_mut().judged_by_code();
        } else {
            check_codeless(network, payment, by_key)?;
        }
        let is_unjudged = match payment.authorization.signature() {
            PayerSignature::Ecdsa { .. } => judge == Judge::PayersCode,
            PayerSignature::Contract(_) => false,
            PayerSignature::Counterfactual(_) => true,
        };
        if is_unjudged {
            let again = InspectItem::of(&judged, network.multicall3);
            inspection = self.inspect(network, again).await?;
        }
        let block = inspection.block.number;
        if let Some((policy, approval)) = approvals::needed(network, &judged, &inspection)? {
            inspection = self
                .behind_approval(network, &judged, inspection, policy, &approval)
                .await?;
        }
        Ok(Reading {
            balance: check_inspection(&judged, &inspection)?,
            block,
            judge,
        })
    }

    /// What there is to say of a payment behind the approval that it needs, at the block where it was inspected without.
    async fn behind_approval(
        &self,
        network: &Network,
        payment: &Payment,
        inspection: Inspection,
        policy: TopUpPolicy,
        approval: &Approval,
    ) -> Result<Inspection, Stop> {
        // What no approval changes.
        let unsimulated = Inspection {
            simulation: Simulation::Skipped,
            ..inspection
        };
        check_inspection(payment, &unsimulated)?;
        let look = timeout(READ_DEADLINE, network.looks.acquire()).await;
        let Ok(Ok(_look)) = look else {
            let chain = network.chain;
            return Err(Stop::Unknown(CheckError::Node { chain }));
        };
        let (block, payer) = (unsimulated.block, payment.key.payer);
        let account = within_deadline(network, network.nodes.account(payer, block)).await?;
        let head = within_deadline(network, network.heads.first(READ_DEADLINE)).await?;
        approvals::check_now(approval, account, head.block.base_fee)?;
        let data_fee = network.nodes.data_fee_bound(approval.raw().len(), block);
        let data_fee = within_deadline(network, data_fee).await?;
        let lacking = approval.lacking(account.balance, data_fee);
        approvals::check_lacking(lacking, unsimulated.code_size > 0, policy)?;
        if lacking > Wei::ZERO {
            let asset = payment.asset;
            let before = self.ledger.top_up(network.chain, payer, asset).await?;
            approvals::check_once(lacking, before)?;
        }
        let approve = BundledCall {
            from: payer,
            to: approval.token,
            data: approval.call(),
            gas: approval.gas_limit,
        };
        let settle = InspectItem::of(payment, network.multicall3).bundled();
        let time = head.chain_time().max(head.block.timestamp.plus(1));
        let calls = [approve, settle];
        let simulated = network.nodes.simulate(block.number, time, &calls);
        let simulated = within_deadline(network, simulated).await?;
        Ok(approvals::behind(
            payment,
            approval,
            unsimulated,
            simulated,
        )?)
    }

    async fn inspect(&self, network: &Network, item: InspectItem) -> Result<Inspection, Stop> {
        within_deadline(network, network.inspector.inspect(item)).await
    }

    /// The authorization was used although this tenant may hold it: then whoever used it moved the money to the payee,
    /// and it is for the engine to find out under which hash (DESIGN section 3.2, "used by somebody else").
    async fn resume(
        &self,
        request: &PaymentRequest,
        digest: PaymentDigest,
        block: u64,
        now: UnixSeconds,
        refusal: Refusal,
    ) -> Result<Hold, Stop> {
        // Without an answer of the reservations it is not known who held it, and the ledger cannot tell either.
        // No balance is needed: nothing can move any more.
        let reading = Reading {
            balance: AssetAmount(U256::MAX),
            block,
            judge: Judge::Key,
        };
        let held = self.reserve(request, HoldPurpose::Settle, digest, reading, now);
        match held.await {
            Ok(hold) if hold.is_renewed() => Ok(hold),
            Ok(granted) => {
                // Nobody held it before it was used, unless that was forgotten; what was just granted is given back.
                drop(granted);
                self.reservations.ping().await?;
                Err(Stop::Refused(refusal))
            }
            Err(Stop::Refused(_)) => Err(Stop::Refused(refusal)),
            Err(unknown) => Err(unknown),
        }
    }

    async fn reserve(
        &self,
        request: &PaymentRequest,
        purpose: HoldPurpose,
        digest: PaymentDigest,
        reading: Reading,
        chain_now: UnixSeconds,
    ) -> Result<Hold, Stop> {
        let payment = &request.payment;
        let now = hold_clock();
        let reserve = ReserveRequest {
            key: payment.key,
            asset: payment.asset,
            value: payment.value,
            tenant: request.tenant.clone(),
            digest,
            idempotency_key: request.idempotency_key.clone(),
            purpose,
            balance: reading.balance,
            read_at_block: reading.block,
            now,
            nonce_hold_until: nonce_hold_until(payment.valid_before(), chain_now, now),
            balance_hold_until: self.balance_hold_until(request.max_timeout_seconds, now),
        };
        let payer = payment.key.payer;
        let reserved = Boundary::Reserve.around(self.reservations.reserve(reserve));
        let reserved = match purpose {
            HoldPurpose::Verify { .. } => reserved.await,
            HoldPurpose::Settle => timeout(SETTLE_RESERVE_DEADLINE, reserved)
                .await
                .unwrap_or_else(|_| Err(no_answer())),
        };
        match reserved? {
            ReserveOutcome::Granted { version } => Ok(Hold::granted(
                payer,
                GiveBack {
                    reservations: Arc::clone(&self.reservations),
                    key: payment.key,
                    tenant: request.tenant.clone(),
                    digest,
                    version,
                },
            )),
            ReserveOutcome::Renewed => Ok(Hold::renewed(payer)),
            ReserveOutcome::AuthorizationHeld => Err(Stop::Refused(Refusal::new(
                Reason::AuthorizationAlreadyReserved,
                "the authorization is reserved by another request",
            ))),
            ReserveOutcome::InsufficientBalance { held } => {
                Err(Stop::Refused(too_little(reading.balance, held, payment)))
            }
        }
    }

    fn balance_hold_until(&self, max_timeout_seconds: u64, now: UnixMillis) -> UnixMillis {
        // A seller that names no time still gets the hold that its answer promises.
        let asked = match max_timeout_seconds {
            0 => self.policy.balance_hold_cap_seconds,
            seconds => seconds.min(self.policy.balance_hold_cap_seconds),
        };
        UnixMillis(now.0.saturating_add(asked.saturating_mul(1000)))
    }
}

/// What a node answers, if it does in time. An error of a node says nothing about a payment.
async fn within_deadline<T>(
    network: &Network,
    answer: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, Stop> {
    match timeout(READ_DEADLINE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(Stop::Unknown(CheckError::Node {
            chain: network.chain,
        })),
    }
}

fn no_answer() -> StoreError {
    StoreError::Unavailable {
        store: "reservations",
        cause: "no answer in time".to_owned(),
    }
}

fn spent_by_another(refusal: &Refusal, purpose: HoldPurpose) -> bool {
    let spent = [Reason::NonceAlreadyUsed, Reason::Permit2InvalidNonce];
    spent.contains(&refusal.reason) && purpose == HoldPurpose::Settle
}

/// Whether a refusal rests on what was read of the chain, or on its time, so that a newer block may change it.
fn may_be_outdated(reason: Reason) -> bool {
    match reason {
        // Time.
        Reason::ValidAfter | Reason::Permit2NotYetValid | Reason::Permit2PaymentTooEarly => true,
        // Balances and nonces.
        Reason::InsufficientBalance
        | Reason::Permit2InsufficientBalance
        | Reason::Permit2AllowanceRequired
        | Reason::NonceAlreadyUsed
        | Reason::Permit2InvalidNonce
        | Reason::ApprovalTxWrongNonce
        | Reason::ApprovalTxFeeTooLow
        | Reason::ApprovalInsufficientGas => true,
        // Code, which also judges signatures.
        Reason::AssetNotDeployed
        | Reason::Eip3009NotSupported
        | Reason::Permit2ProxyNotDeployed
        | Reason::WalletDeploymentFailed
        | Reason::InvalidSignature
        | Reason::Permit2InvalidSignature => true,
        // Simulations.
        Reason::SimulationFailed
        | Reason::Permit2SimulationFailed
        | Reason::DelegationSimulationFailed
        | Reason::DelegationTransferMismatch
        | Reason::ApprovalTxFailed => true,
        _ => false,
    }
}

/// `validBefore` is chain time; the hold ends when that much of it has passed on the clock of holds.
fn nonce_hold_until(
    valid_before: UnixSeconds,
    chain_now: UnixSeconds,
    now: UnixMillis,
) -> UnixMillis {
    let left = valid_before.0.saturating_sub(chain_now.0);
    let left = left.saturating_mul(1000).min(LONGEST_NONCE_HOLD_MS);
    UnixMillis(now.0.saturating_add(left))
}

fn too_little(balance: AssetAmount, held: AssetAmount, payment: &Payment) -> Refusal {
    let value = payment.value;
    let reason = match payment.authorization {
        Authorization::Eip3009 { .. } | Authorization::Erc7710(_) => Reason::InsufficientBalance,
        Authorization::Permit2(_) => Reason::Permit2InsufficientBalance,
    };
    let detail =
        format!("the payer has {balance}, of which {held} is reserved; the payment is {value}");
    Refusal::new(reason, detail)
}
