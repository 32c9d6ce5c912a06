use super::*;
use teller_protocol::extensions::MAX_SENT_SERVICES;

const PAYER: &str = "0x857b06519E91e3A54538791bDbb0E22373e36b66";
const PAYEE: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
const TOKEN: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const ALL: Served = Served {
    permit2: true,
    upto: true,
    erc7710: true,
};

type Messages = (proto::PaymentPayload, proto::PaymentRequirements);

fn permit(scheme: proto::Scheme) -> Messages {
    let authorization = proto::Permit2Authorization {
        from: PAYER.into(),
        permitted: Some(proto::TokenPermissions {
            token: TOKEN.into(),
            amount: "20000".into(),
        }),
        spender: PAYEE.into(),
        nonce: "0x7".into(),
        deadline: U256::MAX.to_string(),
        witness: Some(proto::Permit2Witness {
            to: PAYEE.into(),
            facilitator: TOKEN.into(),
            valid_after: "0".into(),
        }),
    };
    let payload = proto::PaymentPayload {
        x402_version: proto::X402Version::V2.into(),
        scheme: scheme.into(),
        network: "eip155:84532".into(),
        payload: Some(Payload::Permit2(proto::Permit2Payload {
            permit2_authorization: Some(authorization),
            signature: vec![1; 65],
        })),
        extensions: None,
        resource: None,
    };
    let requirements = proto::PaymentRequirements {
        scheme: scheme.into(),
        network: "eip155:84532".into(),
        amount: "10000".into(),
        asset: TOKEN.into(),
        pay_to: PAYEE.into(),
        ..Default::default()
    };
    (payload, requirements)
}

fn read_as((payload, requirements): Messages) -> Result<EvmRequest, ReadError> {
    read(Some(payload), Some(requirements), ALL)
}

fn fault(scheme: proto::Scheme, change: impl FnOnce(&mut Messages)) -> Fault {
    let mut messages = permit(scheme);
    change(&mut messages);
    let error = read_as(messages).unwrap_err();
    assert_eq!(error.network, "eip155:84532");
    error.fault
}

fn signed_of(messages: &mut Messages) -> &mut proto::Permit2Authorization {
    match &mut messages.0.payload {
        Some(Payload::Permit2(permit)) => permit.permit2_authorization.as_mut().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_permit_is_read_under_both_schemes() {
    for (scheme, expected, facilitator) in [
        (proto::Scheme::Exact, EvmScheme::Exact, None),
        (
            proto::Scheme::Upto,
            EvmScheme::Upto,
            Some(TOKEN.parse().unwrap()),
        ),
    ] {
        let mut messages = permit(scheme);
        messages.1.asset_transfer_method = proto::AssetTransferMethod::Permit2.into();
        messages.1.facilitator_address = PAYEE.into();
        let request = read_as(messages).unwrap();
        assert_eq!(request.scheme, expected);
        assert_eq!(request.facilitator_address, Some(PAYEE.parse().unwrap()));
        let EvmPayload::Permit2(signed) = request.payload else {
            panic!("no permit")
        };
        assert_eq!(
            signed.from,
            PAYER.parse::<alloy_primitives::Address>().unwrap()
        );
        assert_eq!(signed.amount, U256::from(20_000));
        assert_eq!((signed.nonce, signed.deadline), (U256::from(7), U256::MAX));
        assert_eq!(signed.facilitator, facilitator);
        assert_eq!(signed.signature.len(), 65);
    }
}

#[test]
fn faults_of_a_permit_are_those_of_the_scheme() {
    use proto::Scheme::{Exact, Upto};
    for (scheme, expected) in [(Exact, Fault::Payload), (Upto, Fault::PayloadKind)] {
        for change in [
            |signed: &mut proto::Permit2Authorization| signed.permitted = None,
            |signed: &mut proto::Permit2Authorization| signed.witness = None,
            |signed: &mut proto::Permit2Authorization| signed.from.clear(),
            |signed: &mut proto::Permit2Authorization| signed.nonce = "-1".into(),
            |signed: &mut proto::Permit2Authorization| signed.deadline = format!("{}0", U256::MAX),
        ] {
            let found = fault(scheme, |messages| change(signed_of(messages)));
            assert_eq!(found, expected);
        }
        let found = fault(scheme, |messages| match &mut messages.0.payload {
            Some(Payload::Permit2(permit)) => permit.signature = vec![1; 8_193],
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected);
        assert_eq!(fault(scheme, |m| m.0.payload = None), Fault::Payload);
        for method in [proto::AssetTransferMethod::Eip3009.into(), 99] {
            let found = fault(scheme, |m| m.1.asset_transfer_method = method);
            assert_eq!(found, Fault::PayloadKind);
        }
        let found = fault(scheme, |m| m.1.facilitator_address = "0x".into());
        assert_eq!(found, Fault::Requirements);
    }
    let no_facilitator = |messages: &mut Messages| {
        let witness = signed_of(messages).witness.as_mut().unwrap();
        witness.facilitator.clear();
    };
    assert_eq!(fault(Upto, no_facilitator), Fault::PayloadKind);
    let mut messages = permit(Exact);
    no_facilitator(&mut messages);
    assert!(read_as(messages).is_ok());
    assert_eq!(
        fault(Exact, |m| m.0.scheme = Upto.into()),
        Fault::PayloadKind
    );
    assert_eq!(
        fault(Upto, |m| m.0.scheme = Exact.into()),
        Fault::UptoSchemeMismatch
    );
    let token_itself = |messages: &mut Messages| {
        messages.0.payload = Some(Payload::ExactEip3009(proto::ExactEip3009::default()));
    };
    assert_eq!(fault(Upto, token_itself), Fault::PayloadKind);
    // Version 1 has neither.
    let first = |m: &mut Messages| m.0.x402_version = proto::X402Version::V1.into();
    assert_eq!(fault(Exact, first), Fault::PayloadKind);
    assert_eq!(fault(Upto, first), Fault::Scheme);
}

fn delegation(change: impl FnOnce(&mut proto::Erc7710Payload)) -> Messages {
    let mut sent = proto::Erc7710Payload {
        delegation_manager: TOKEN.into(),
        delegator: PAYER.into(),
        permission_context: vec![7; MAX_PERMISSION_CONTEXT_BYTES],
    };
    change(&mut sent);
    let (mut payload, mut requirements) = permit(proto::Scheme::Exact);
    payload.payload = Some(Payload::Erc7710(sent));
    requirements.asset_transfer_method = proto::AssetTransferMethod::Erc7710.into();
    (payload, requirements)
}

#[test]
fn a_delegation_is_read_where_they_are_redeemed() {
    let request = read_as(delegation(|_| ())).unwrap();
    let EvmPayload::Erc7710(sent) = request.payload else {
        panic!("no delegation")
    };
    assert_eq!(
        (sent.manager, sent.delegator),
        (TOKEN.parse().unwrap(), PAYER.parse().unwrap())
    );
    assert_eq!(sent.permission_context.len(), MAX_PERMISSION_CONTEXT_BYTES);

    let (payload, requirements) = delegation(|_| ());
    let nowhere = Served {
        erc7710: false,
        ..ALL
    };
    let error = read(Some(payload), Some(requirements), nowhere).unwrap_err();
    assert_eq!(error.fault, Fault::PayloadKind);
    assert_eq!(error.payer, Some(PAYER.parse().unwrap()));
    let mut first = delegation(|_| ());
    first.0.x402_version = proto::X402Version::V1.into();
    assert_eq!(read_as(first).unwrap_err().fault, Fault::PayloadKind);
    for spoil in [
        |sent: &mut proto::Erc7710Payload| sent.permission_context.push(7),
        |sent: &mut proto::Erc7710Payload| sent.delegation_manager.clear(),
        |sent: &mut proto::Erc7710Payload| sent.delegator.clear(),
    ] {
        assert_eq!(
            read_as(delegation(spoil)).unwrap_err().fault,
            Fault::Payload
        );
    }
}

fn sponsoring() -> proto::Eip2612GasSponsoring {
    proto::Eip2612GasSponsoring {
        from: PAYER.into(),
        asset: TOKEN.into(),
        spender: PAYEE.into(),
        amount: "20000".into(),
        nonce: "3".into(),
        deadline: "99".into(),
        signature: vec![1; 65],
        version: "1".into(),
    }
}

fn sponsored(info: proto::Eip2612GasSponsoring) -> Extension<Eip2612GasSponsoring> {
    let (mut payload, requirements) = permit(proto::Scheme::Exact);
    payload.extensions = Some(proto::Extensions {
        eip2612_gas_sponsoring: Some(info),
        ..proto::Extensions::default()
    });
    let request = read_as((payload, requirements)).unwrap();
    request.extensions.eip2612_gas_sponsoring
}

#[test]
fn half_a_gas_sponsoring_is_absent_and_a_wrong_one_malformed() {
    let found = sponsored(sponsoring());
    let found = found.present().unwrap();
    assert_eq!(found.amount, U256::from(20_000));
    assert_eq!(
        (found.nonce, found.deadline),
        (U256::from(3), U256::from(99))
    );
    for clear in [
        |info: &mut proto::Eip2612GasSponsoring| info.from.clear(),
        |info: &mut proto::Eip2612GasSponsoring| info.version.clear(),
        |info: &mut proto::Eip2612GasSponsoring| info.signature.clear(),
    ] {
        let mut half = sponsoring();
        clear(&mut half);
        assert_eq!(sponsored(half), Extension::Absent);
    }
    for (spoil, field) in [
        (
            (|info| info.amount = "0x10".into()) as fn(&mut proto::Eip2612GasSponsoring),
            "amount",
        ),
        (|info| info.version = "one".into(), "version"),
        (|info| info.spender = "0x".into(), "spender"),
        (|info| info.signature = vec![1; 8_193], "signature"),
    ] {
        let mut wrong = sponsoring();
        spoil(&mut wrong);
        let Extension::Malformed(detail) = sponsored(wrong) else {
            panic!("{field} is good")
        };
        let path = format!("payment_payload.extensions.eip2612_gas_sponsoring.{field} ");
        assert!(detail.starts_with(&path), "{detail}");
    }
}

fn approving() -> proto::Erc20ApprovalGasSponsoring {
    proto::Erc20ApprovalGasSponsoring {
        from: PAYER.into(),
        asset: TOKEN.into(),
        spender: PAYEE.into(),
        amount: "20000".into(),
        signed_transaction: vec![2; 180],
        version: "1".into(),
    }
}

#[test]
fn half_an_approval_is_absent_and_a_wrong_one_malformed() {
    type Change = fn(&mut proto::Erc20ApprovalGasSponsoring);
    let read = |change: Change| {
        let (mut payload, requirements) = permit(proto::Scheme::Exact);
        let mut info = approving();
        change(&mut info);
        payload.extensions = Some(proto::Extensions {
            erc20_approval_gas_sponsoring: Some(info),
            ..proto::Extensions::default()
        });
        let request = read_as((payload, requirements)).unwrap();
        request.extensions.erc20_approval_gas_sponsoring
    };
    let found = read(|_| ());
    let found = found.present().unwrap();
    assert_eq!(found.signed_transaction[..], [2; 180]);
    let halves: [Change; 3] = [
        |info| info.spender.clear(),
        |info| info.version.clear(),
        |info| info.signed_transaction.clear(),
    ];
    for clear in halves {
        assert_eq!(read(clear), Extension::Absent);
    }
    let wrong: [(Change, &str); 4] = [
        (|info| info.amount = "0x10".into(), "amount"),
        (|info| info.version = "one".into(), "version"),
        (|info| info.asset = "0x".into(), "asset"),
        (
            |info| info.signed_transaction = vec![2; 1_025],
            "signed_transaction",
        ),
    ];
    for (spoil, field) in wrong {
        let Extension::Malformed(detail) = read(spoil) else {
            panic!("{field} is good")
        };
        let path = format!("payment_payload.extensions.erc20_approval_gas_sponsoring.{field} ");
        assert!(detail.starts_with(&path), "{detail}");
    }
}

#[test]
fn builder_codes_are_bounded_and_version_1_has_no_extensions() {
    let read = |code: proto::BuilderCode, version: proto::X402Version| {
        let (mut payload, requirements) = permit(proto::Scheme::Exact);
        payload.payload = Some(Payload::ExactEip3009(proto::ExactEip3009 {
            authorization: Some(proto::Eip3009Authorization {
                from: PAYER.into(),
                to: PAYEE.into(),
                value: "1".into(),
                nonce: format!("0x{}", "ab".repeat(32)),
                ..Default::default()
            }),
            signature: vec![1; 65],
        }));
        payload.x402_version = version.into();
        payload.extensions = Some(proto::Extensions {
            eip2612_gas_sponsoring: Some(sponsoring()),
            erc20_approval_gas_sponsoring: Some(approving()),
            builder_code: Some(code),
            ..Default::default()
        });
        read_as((payload, requirements)).unwrap().extensions
    };
    let many = proto::BuilderCode {
        app: String::new(),
        services: vec!["s".into(); MAX_SENT_SERVICES + 1],
    };
    let found = read(many.clone(), proto::X402Version::V2).builder_code;
    let found = found.present().unwrap();
    assert_eq!(
        (&found.app, found.services.len()),
        (&None, MAX_SENT_SERVICES)
    );
    let nothing = read(proto::BuilderCode::default(), proto::X402Version::V2);
    assert_eq!(nothing.builder_code, Extension::Absent);
    let first = read(many, proto::X402Version::V1);
    assert_eq!(first.builder_code, Extension::Absent);
    assert_eq!(first.eip2612_gas_sponsoring, Extension::Absent);
    assert_eq!(first.erc20_approval_gas_sponsoring, Extension::Absent);
}
