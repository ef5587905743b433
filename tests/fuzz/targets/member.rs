//! Who belongs: ops, genesis, invites.

use std::net::Ipv4Addr;

use data_encoding::BASE32_NOPAD;
use ginnel::identity::{
    AdminSecret, DeviceId, IdSecret, Ipv4Pool, NetworkId, RootSecret, WgSecret, hash,
};
use ginnel::membership::invite::{Hint, MAX_HINTS, MAX_TOKEN_LEN, TOKEN_PREFIX};
use ginnel::membership::op::{MAX_WIRE_LEN, bind};
use ginnel::membership::{
    Author, Certificate, Flags, Genesis, GenesisPool, Invite, Op, OpBody, OpId, SignedOp, UnixTime,
};

use super::Source;
use super::said::seldom;

const NETWORK: NetworkId = NetworkId([8; 32]);

/// The bytes before the body of an op: author 1, key 32.
const KEY: std::ops::Range<usize> = 1..33;

/// An op in its wire form; where the first byte is odd, signed by whom it names as its author.
pub fn op(data: &[u8]) {
    let mut source = Source(data);
    if source.byte() & 1 == 0 {
        let bytes = source.rest();
        let Ok(unverified) = SignedOp::decode(bytes) else { return };
        assert!(bytes.len() <= MAX_WIRE_LEN);
        assert_eq!(unverified.id(), OpId(hash(&bytes[64..])));
        let _ = unverified.author();
        if seldom() {
            assert!(unverified.verify(&NETWORK).is_err(), "a forgery");
        }
        return;
    }
    let mut text = source.rest().to_vec();
    let by_root = text.first() == Some(&0);
    if let Some(key) = text.get_mut(KEY) {
        key.copy_from_slice(if by_root { &ROOT_KEY } else { &ADMIN_KEY });
    }
    // What is signed decodes, or it is not signed at all.
    let unsigned =
        SignedOp { bytes: text.clone(), signature: ginnel::identity::Signature([0; 64]) };
    let Ok(unverified) = SignedOp::decode(&unsigned.encode()) else { return };
    assert_eq!(unverified.id(), OpId(hash(&text)));
    if !seldom() {
        return;
    }
    let signature = if by_root {
        root().sign("op", &NETWORK, &text)
    } else {
        admin().sign("op", &NETWORK, &text)
    };
    let signed = SignedOp { bytes: text, signature };
    let wire = signed.encode();
    match SignedOp::decode(&wire).expect("it decoded before").verify(&NETWORK) {
        Ok(verified) => {
            assert_eq!(verified.signed().encode(), wire);
            assert_eq!(verified.op().encode().as_ref(), Ok(&signed.bytes), "one form only");
            let _ = verified.op().body.summary(&|device: &DeviceId| device.to_string());
            let _ = verified.op().time.rfc3339();
        }
        // Only a device's consent can still be missing.
        Err(_) => assert_eq!(signed.bytes[KIND], KIND_GRANT),
    }
}

/// Where the kind stands in the signed bytes, and which one is a Grant.
const KIND: usize = 81;
const KIND_GRANT: u8 = 16;

/// The public halves of [`root`] and [`admin`]; a test of the seeds would fail were they not.
const ROOT_KEY: [u8; 32] = key("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c");
const ADMIN_KEY: [u8; 32] = key("8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394");

const fn key(hex: &str) -> [u8; 32] {
    const fn digit(byte: u8) -> u8 {
        if byte <= b'9' { byte - b'0' } else { byte - b'a' + 10 }
    }
    let (hex, mut out, mut at) = (hex.as_bytes(), [0; 32], 0);
    while at < 32 {
        out[at] = digit(hex[2 * at]) << 4 | digit(hex[2 * at + 1]);
        at += 1;
    }
    out
}

fn root() -> RootSecret {
    RootSecret::from_seed([1; 32])
}

fn admin() -> AdminSecret {
    AdminSecret::from_seed([2; 32])
}

pub fn op_seeds() -> Vec<Vec<u8>> {
    let (root, admin) = (root(), admin());
    assert_eq!((root.public().0, admin.public().0), (ROOT_KEY, ADMIN_KEY));
    let device = IdSecret::from_seed([3; 32]);
    let wg = WgSecret::from_bytes([4; 32]).public();
    let name = |text: &str| text.parse().expect("a name");
    let keys = Invite::new(NETWORK, [5; 16], Vec::new()).keys();
    let time = UnixTime(1_700_000_000);
    let certificate = Certificate {
        id: device.public(),
        wg,
        name: name("laptop"),
        ipv4: Some(Ipv4Addr::new(10, 0, 0, 7)),
        groups: vec![name("office"), name("backup")],
        routes: vec![(Ipv4Addr::new(192, 168, 9, 0).into(), 24)],
        flags: Flags { relay: true, exit: false, sponsor: true },
        not_before: time,
        not_after: time.plus(86_400),
        invite: Some(keys.id),
        bind_sig: bind(&device, &wg, &NETWORK),
    };
    let of_root = [
        OpBody::AdminAdd { admin: admin.public(), device: device.public() },
        OpBody::AdminCut { admin: admin.public(), seq: 3, hash: OpId([6; 32]) },
        OpBody::Unknown { kind: 200, critical: true, bytes: vec![1, 2, 3] },
    ];
    let of_admin = [
        OpBody::Grant(Box::new(certificate)),
        OpBody::Revoke {
            device: device.public(),
            reason: "lost in a train".into(),
            knet_generation: 2,
            knet_hash: [7; 32],
        },
        OpBody::InviteOpen(keys.open(time.plus(3600), false, Some(name("phone")))),
        OpBody::InviteClose { invite: keys.id },
        OpBody::Unknown { kind: 99, critical: false, bytes: Vec::new() },
    ];
    let authors = of_root.map(|body| (Author::Root(root.public()), body)).into_iter();
    let authors = authors.chain(of_admin.map(|body| (Author::Admin(admin.public()), body)));
    let mut seeds = Vec::new();
    for (author, body) in authors {
        let op = Op { author, seq: 2, prev: OpId([9; 32]), time, body };
        let text = op.encode().expect("a valid op");
        seeds.push([&[1][..], &text].concat());
        // Another network's, so that it is a forgery here.
        let signature = admin.sign("op", &NetworkId([0; 32]), &text);
        let mut wire = vec![0];
        wire.extend(SignedOp { bytes: text, signature }.encode());
        seeds.push(wire);
    }
    seeds
}

pub fn genesis(data: &[u8]) {
    let Ok(genesis) = Genesis::decode(data) else { return };
    assert_eq!(genesis.encode(), data, "one form only");
    assert_eq!(genesis.network_id(), NetworkId(hash(data)));
    if let Some(pool) = genesis.pool() {
        assert!((8..=28).contains(&pool.prefix_len()));
        assert!(pool.contains(pool.base()));
        let address = pool.assign(&DeviceId([1; 32]), |_| false).expect("nothing is taken");
        assert!(pool.holds_host(address));
    }
}

pub fn genesis_seeds() -> Vec<Vec<u8>> {
    let named: Ipv4Pool = "10.71.0.0/16".parse().expect("a pool");
    let pools = [GenesisPool::Default, GenesisPool::None, GenesisPool::Named(named)];
    let seeds = pools.into_iter().map(|ipv4_pool| Genesis {
        version: 1,
        root: root().public(),
        created: UnixTime(1_700_000_000),
        salt: [6; 16],
        ipv4_pool,
        name: "home".parse().expect("a name"),
    });
    seeds.map(|genesis| genesis.encode()).collect()
}

/// A token as text; where the first byte is odd, of these bytes with a check that holds.
pub fn invite(data: &[u8]) {
    let mut source = Source(data);
    let checked = source.byte() & 1 == 1;
    let bytes = source.rest();
    let text = if checked {
        let check = &hash(bytes)[..4];
        TOKEN_PREFIX.to_owned() + &BASE32_NOPAD.encode(&[bytes, check].concat())
    } else {
        String::from_utf8_lossy(bytes).into_owned()
    };
    let Ok(invite) = text.parse::<Invite>() else { return };
    assert!(text.trim().len() <= MAX_TOKEN_LEN && invite.hints.len() <= MAX_HINTS);
    let token = invite.token();
    assert_eq!(*token, text.trim().to_ascii_lowercase(), "one form only");
    assert!(token.parse::<Invite>() == Ok(invite));
}

pub fn invite_seeds() -> Vec<Vec<u8>> {
    let wg = WgSecret::from_bytes([4; 32]).public();
    let hint = |address: &str| Hint { wg, address: address.parse().expect("an address") };
    let hints = [hint("192.0.2.1:41641"), hint("[2001:db8::1]:41641")];
    let mut seeds = Vec::new();
    for count in 0..=2 {
        let token = Invite::new(NETWORK, [5; 16], hints[..count].to_vec()).token();
        seeds.push([b"\0", token.as_bytes()].concat());
        seeds.push([b"\0 ", token.to_uppercase().as_bytes(), b"\r\n"].concat());
        let body = token[TOKEN_PREFIX.len()..].to_ascii_uppercase();
        let bytes = BASE32_NOPAD.decode(body.as_bytes()).expect("our own token");
        seeds.push([b"\x01", &bytes[..bytes.len() - 4]].concat());
    }
    seeds
}
