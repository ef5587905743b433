//! Ops on the wire, and the line between what was checked and what was not.
//!
//! [`SignedOp::decode`] checks the form and gives an [`Unverified`]; [`Unverified::verify`] checks
//! the author's signature and, inside a Grant, the device's consent. Only a [`Verified`] op can get
//! into a log.

use super::op::{Author, MAX_OP_LEN, Op, OpError, OpId, take};
use crate::identity::{AdminSecret, NetworkId, RootSecret, Signature, hash};

/// The length of an Ed25519 signature, in bytes.
const SIGNATURE_LEN: usize = 64;

/// The longest wire form of a signed op, in bytes; it fits one control message.
pub const MAX_WIRE_LEN: usize = SIGNATURE_LEN + MAX_OP_LEN;

/// The type of an op in the signed text.
const OP: &str = "op";

/// A signed op as it came from or goes to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOp {
    /// What was signed.
    pub bytes: Vec<u8>,
    /// The author's signature over it.
    pub signature: Signature,
}

impl SignedOp {
    /// The wire form: `signature 64 ‖ bytes`.
    pub fn encode(&self) -> Vec<u8> {
        [&self.signature.0, self.bytes.as_slice()].concat()
    }

    /// The length of the wire form, in bytes.
    pub fn wire_len(&self) -> usize {
        SIGNATURE_LEN + self.bytes.len()
    }

    /// Reads the wire form of one op, all of `bytes`.
    ///
    /// # Errors
    /// [`OpError::TooLong`] over [`MAX_WIRE_LEN`]; [`OpError::Malformed`] or [`OpError::Author`]
    /// where the bytes are no op, whoever signed them.
    pub fn decode(bytes: &[u8]) -> Result<Unverified<SignedOp>, OpError> {
        if bytes.len() > MAX_WIRE_LEN {
            return Err(OpError::TooLong);
        }
        let mut rest = bytes;
        let signature = Signature(take(&mut rest)?);
        let op = Op::decode(rest)?;
        let id = OpId(hash(rest));
        Ok(Unverified { inner: SignedOp { bytes: rest.to_vec(), signature }, id, op })
    }

    /// Signs `op` with the key of the admin that wrote it.
    ///
    /// # Errors
    /// [`OpError::Author`] where `key` is not the author's; else as [`SignedOp::decode`] and
    /// [`Unverified::verify`] would refuse it.
    pub fn sign_admin(
        op: &Op,
        key: &AdminSecret,
        network: &NetworkId,
    ) -> Result<Verified<SignedOp>, OpError> {
        if op.author != Author::Admin(key.public()) {
            return Err(OpError::Author);
        }
        Self::sign(op, network, |bytes| key.sign(OP, network, bytes))
    }

    /// Signs `op` with the root key.
    ///
    /// # Errors
    /// As [`SignedOp::sign_admin`].
    pub fn sign_root(
        op: &Op,
        key: &RootSecret,
        network: &NetworkId,
    ) -> Result<Verified<SignedOp>, OpError> {
        if op.author != Author::Root(key.public()) {
            return Err(OpError::Author);
        }
        Self::sign(op, network, |bytes| key.sign(OP, network, bytes))
    }

    fn sign(
        op: &Op,
        network: &NetworkId,
        signer: impl FnOnce(&[u8]) -> Signature,
    ) -> Result<Verified<SignedOp>, OpError> {
        op.check_consent(network)?;
        let bytes = op.encode()?;
        let signature = signer(&bytes);
        let id = OpId(hash(&bytes));
        Ok(Verified { inner: SignedOp { bytes, signature }, id, op: op.clone() })
    }
}

/// Something from outside, of which only the form was checked.
#[derive(Debug, Clone)]
pub struct Unverified<T> {
    inner: T,
    id: OpId,
    op: Op,
}

/// Something of which the signature was checked. Only `verify` and the signer make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    inner: T,
    id: OpId,
    op: Op,
}

impl Unverified<SignedOp> {
    /// Checks the author's signature and, inside a Grant, the device's consent.
    ///
    /// # Errors
    /// [`OpError::Signature`] for another network, type or key, a signature that is not canonical,
    /// or a small-order key.
    pub fn verify(self, network: &NetworkId) -> Result<Verified<SignedOp>, OpError> {
        let Self { inner, id, op } = self;
        let signed = match op.author {
            Author::Root(root) => root.verify(OP, network, &inner.bytes, &inner.signature),
            Author::Admin(admin) => admin.verify(OP, network, &inner.bytes, &inner.signature),
        };
        if !signed {
            return Err(OpError::Signature);
        }
        op.check_consent(network)?;
        Ok(Verified { inner, id, op })
    }

    /// Its id: where a log holds it already, verifying again is a waste.
    pub fn id(&self) -> OpId {
        self.id
    }

    /// Who is said to have written it: where a log knows no such author, verifying is a waste.
    pub fn author(&self) -> Author {
        self.op.author
    }
}

impl Verified<SignedOp> {
    /// Its id.
    pub fn id(&self) -> OpId {
        self.id
    }

    /// What it says.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// Its bytes and signature, as received.
    pub fn signed(&self) -> &SignedOp {
        &self.inner
    }

    /// An op that nobody signed, for tests that need very many.
    #[cfg(test)]
    pub(super) fn unsigned(op: Op) -> Self {
        let bytes = op.encode().expect("the test's op can be written");
        let id = OpId(hash(&bytes));
        Self { inner: SignedOp { bytes, signature: Signature([0; 64]) }, id, op }
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::OpBody;
    use super::super::certificate::Certificate;
    use super::super::fixture::{Dice, NOW, SignedAct, World, admin, device, id_secret, revoke};
    use super::super::invite::InviteOpen;
    use super::super::op::MAX_BODY_LEN;
    use super::*;
    use crate::identity::{AdminId, RootId};

    #[test]
    fn an_op_reads_what_it_wrote() {
        let mut world = World::new(2);
        world.opens(1, 1);
        world.does(1, OpBody::InviteClose { invite: world.invite(1).id });
        world.does(1, revoke(2));
        world.root_does(super::super::fixture::cut_whole(2));
        for op in world.logs.iter() {
            let wire = op.signed().encode();
            assert!(wire.len() <= MAX_WIRE_LEN && wire.len() == op.signed().wire_len());
            let read = SignedOp::decode(&wire).unwrap();
            assert_eq!((read.id(), read.author()), (op.id(), op.op().author));
            assert_eq!(read.verify(&world.network).as_ref(), Ok(op));
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_module_doc() {
        let mut world = World::new(1);
        let op = world.does(1, OpBody::InviteClose { invite: world.invite(1).id });
        let expected = [
            &op.signed().signature.0[..],
            &[1],
            &admin(1).public().0,
            &2_u64.to_be_bytes(),
            &op.op().prev.0,
            &NOW.0.to_be_bytes(),
            &[19, 1],
            &world.invite(1).id.0,
        ]
        .concat();
        assert_eq!(op.signed().encode(), expected);
        assert_eq!(op.id().0, hash(&expected[64..]));
    }

    #[test]
    fn another_network_or_type_does_not_verify() {
        let mut world = World::new(1);
        let op = world.does(1, revoke(9));
        let other = NetworkId([9; 32]);
        let read = || SignedOp::decode(&op.signed().encode()).unwrap();
        assert_eq!(read().verify(&other), Err(OpError::Signature));
        let signature = admin(1).sign("bind", &world.network, &op.signed().bytes);
        assert_eq!(resigned(&op, signature).verify(&world.network), Err(OpError::Signature));
    }

    #[test]
    fn a_second_form_of_the_signature_does_not_verify() {
        let mut world = World::new(1);
        let op = world.does(1, revoke(9));
        let order = data_encoding::HEXLOWER
            .decode(b"edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
            .unwrap();
        let (mut signature, mut carry) = (op.signed().signature, 0);
        for (byte, add) in signature.0[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert_eq!(resigned(&op, signature).verify(&world.network), Err(OpError::Signature));
    }

    #[test]
    fn a_small_order_author_does_not_verify() {
        let world = World::new(0);
        let mut identity = [0; 32];
        identity[0] = 1;
        for author in [Author::Root(RootId(identity)), Author::Admin(AdminId(identity))] {
            let body = OpBody::Unknown { kind: 99, critical: false, bytes: Vec::new() };
            let op = Op { author, seq: 1, prev: OpId::NONE, time: NOW, body };
            let mut signature = Signature([0; 64]);
            signature.0[..32].copy_from_slice(&identity);
            let wire = SignedOp { bytes: op.encode().unwrap(), signature }.encode();
            let read = SignedOp::decode(&wire).unwrap();
            assert_eq!(read.verify(&world.network), Err(OpError::Signature));
        }
    }

    #[test]
    fn cut_short_or_with_bytes_after_it_is_refused() {
        let mut world = World::new(1);
        for op in [world.grants(2), world.does(1, revoke(9)), world.opens(1, 1)] {
            let wire = op.signed().encode();
            for len in 0..wire.len() {
                assert!(SignedOp::decode(&wire[..len]).is_err(), "{len}");
            }
            let longer = [&wire[..], &[0]].concat();
            assert_eq!(SignedOp::decode(&longer).err(), Some(OpError::Malformed));
        }
        for len in [MAX_WIRE_LEN + 1, 10 * 1024, 65_507] {
            assert_eq!(SignedOp::decode(&vec![0; len]).err(), Some(OpError::TooLong));
        }
    }

    #[test]
    fn no_damage_verifies_or_panics() {
        let mut world = World::new(1);
        let ops = [world.grants(2), world.does(1, revoke(9)), world.opens(1, 1)];
        let mut dice = Dice(1);
        for round in 0..3_000 {
            let op = &ops[round % ops.len()];
            let mut wire = op.signed().encode();
            for _ in 0..=dice.below(3) {
                let at = dice.below(wire.len());
                wire[at] ^= 1 << dice.below(8);
            }
            if wire != op.signed().encode()
                && let Ok(read) = SignedOp::decode(&wire)
            {
                assert!(read.verify(&world.network).is_err());
            }
        }
    }

    #[test]
    fn unknown_kinds_are_kept_byte_for_byte() {
        let mut world = World::new(1);
        for (critical, len) in [(false, 0), (true, 1), (false, MAX_BODY_LEN)] {
            let body = OpBody::Unknown { kind: 200, critical, bytes: vec![0xe5; len] };
            let op = Op { author: author(1), seq: 1, prev: OpId::NONE, time: NOW, body };
            let wire = world.sign(1, &op).signed().encode();
            let read = SignedOp::decode(&wire).unwrap().verify(&world.network).unwrap();
            assert_eq!((read.op(), read.signed().encode()), (&op, wire));
        }
        let body = OpBody::Unknown { kind: 200, critical: true, bytes: vec![0; MAX_BODY_LEN + 1] };
        let op = Op { author: author(1), seq: 1, prev: OpId::NONE, time: NOW, body };
        assert_eq!(op.encode(), Err(OpError::TooLong));
        world.does(1, OpBody::Unknown { kind: 20, critical: false, bytes: vec![1, 2, 3] });
    }

    #[test]
    fn a_known_kind_cannot_pass_as_unknown_nor_as_uncritical() {
        let mut world = World::new(1);
        let body = OpBody::Unknown { kind: 19, critical: true, bytes: vec![0; 16] };
        let op = Op { author: author(1), seq: 1, prev: OpId::NONE, time: NOW, body };
        assert_eq!(op.encode(), Err(OpError::Malformed));

        let op = world.does(1, OpBody::InviteClose { invite: world.invite(1).id });
        let mut wire = op.signed().encode();
        for flags in [0, 2, 3, 0xff] {
            wire[64 + 82] = flags;
            assert_eq!(SignedOp::decode(&wire).err(), Some(OpError::Malformed));
        }
    }

    #[test]
    fn root_and_admins_have_each_their_own_acts() {
        let world = World::new(1);
        let root = Author::Root(world.root.public());
        let add = OpBody::AdminAdd { admin: admin(2).public(), device: device(2) };
        let grant = OpBody::Grant(Box::new(world.certificate(2)));
        for (author, body) in [(author(1), add), (root, grant), (root, revoke(1))] {
            let op = Op { author, seq: 1, prev: OpId::NONE, time: NOW, body };
            assert_eq!(op.encode(), Err(OpError::Author));
        }
        let op = world.logs.next_op(author(1), NOW, revoke(9)).unwrap();
        assert_eq!(SignedOp::sign_admin(&op, &admin(2), &world.network), Err(OpError::Author));
        assert_eq!(SignedOp::sign_root(&op, &world.root, &world.network), Err(OpError::Author));
    }

    #[test]
    fn a_grant_needs_the_devices_own_consent_to_both_keys() {
        let world = World::new(1);
        let good = world.certificate(2);
        let foreign_network =
            super::super::certificate::bind(&id_secret(2), &good.wg, &NetworkId([9; 32]));
        let other_device = world.certificate(3).bind_sig;
        for bind_sig in [foreign_network, other_device, Signature([0; 64])] {
            let grant = OpBody::Grant(Box::new(Certificate { bind_sig, ..good.clone() }));
            let op = world.logs.next_op(author(1), NOW, grant).unwrap();
            let signed = SignedOp::sign_admin(&op, &admin(1), &world.network);
            assert_eq!(signed, Err(OpError::Signature));
            // And so would whoever receives it from an admin that does not check.
            let bytes = op.encode().unwrap();
            let signature = admin(1).sign(OP, &world.network, &bytes);
            let read = SignedOp::decode(&SignedOp { bytes, signature }.encode()).unwrap();
            assert_eq!(read.verify(&world.network), Err(OpError::Signature));
        }
    }

    #[test]
    fn the_fields_of_a_body_keep_their_bounds() {
        let world = World::new(1);
        let good = world.certificate(2);
        let low_order = crate::identity::WgPublicKey([0; 32]);
        let open = world.invite(1).open(NOW.plus(60), false, None);
        let label: super::super::policy::DeviceName = "g".parse().unwrap();
        let grant = |certificate| OpBody::Grant(Box::new(certificate));
        for body in [
            grant(Certificate { wg: low_order, ..good.clone() }),
            grant(Certificate { not_after: good.not_before, ..good.clone() }),
            grant(Certificate { groups: vec![label.clone(); 17], ..good.clone() }),
            grant(Certificate { routes: vec![([10, 0, 0, 0].into(), 8); 9], ..good.clone() }),
            grant(Certificate { routes: vec![([10, 0, 0, 1].into(), 8)], ..good.clone() }),
            OpBody::InviteOpen(InviteOpen { expires: NOW, ..open.clone() }),
            OpBody::InviteOpen(InviteOpen { expires: NOW.plus(7 * 86_400 + 1), ..open.clone() }),
            OpBody::InviteOpen(InviteOpen { invite: world.invite(2).id, ..open.clone() }),
            OpBody::InviteOpen(InviteOpen { gk: low_order, ..open }),
            with_reason("\u{1b}[2J".to_owned()),
            with_reason("a".repeat(201)),
            OpBody::AdminCut { admin: admin(1).public(), seq: 0, hash: OpId([1; 32]) },
        ] {
            let by_root = matches!(body, OpBody::AdminCut { .. });
            let author = if by_root { Author::Root(world.root.public()) } else { author(1) };
            let op = Op { author, seq: 1, prev: OpId::NONE, time: NOW, body };
            assert_eq!(op.encode(), Err(OpError::Malformed), "{op:?}");
        }
    }

    #[test]
    fn a_full_certificate_fits_an_op() {
        let world = World::new(1);
        let certificate = Certificate {
            name: "n".repeat(63).parse().unwrap(),
            groups: (0..16).map(|n| format!("a-group-{n}").parse().unwrap()).collect(),
            routes: (0..8).map(|n| ([0xfd, n, 0, 0, 0, 0, 0, 0].into(), 48)).collect(),
            invite: Some(world.invite(1).id),
            ..world.certificate(2)
        };
        let grant = OpBody::Grant(Box::new(certificate));
        assert!(world.logs.next_op(author(1), NOW, grant).is_ok());
    }

    #[test]
    fn the_first_op_has_no_op_before_it_and_every_other_has_one() {
        let world = World::new(1);
        for (seq, prev) in [(0, OpId::NONE), (1, OpId([1; 32])), (2, OpId::NONE)] {
            let op = Op { author: author(1), seq, prev, time: NOW, body: revoke(9) };
            assert_eq!(op.encode(), Err(OpError::Malformed));
        }
        let _ = world;
    }

    #[test]
    fn an_act_says_in_words_what_it_did() {
        let mut world = World::new(1);
        let names = |id: &crate::identity::DeviceId| {
            if *id == device(2) { "nas".to_owned() } else { "?".to_owned() }
        };
        let says = |op: SignedAct| op.op().body.summary(&names);
        assert_eq!(
            says(world.grants(2)),
            "admitted device-2 (10.71.0.2) until 2027-01-26T00:00:00Z"
        );
        assert_eq!(says(world.does(1, revoke(2))), "removed nas: stolen");
        let add = OpBody::AdminAdd { admin: admin(2).public(), device: device(2) };
        assert_eq!(says(world.root_does(add)), "made nas an admin");
        let id = world.invite(1).id;
        let opened = format!("opened an invite ({id}) until 2026-01-27T00:00:00Z");
        assert_eq!(says(world.opens(1, 1)), opened);
        let closed = format!("closed the invite {id}");
        assert_eq!(says(world.does(1, OpBody::InviteClose { invite: id })), closed);
    }

    fn author(n: u8) -> Author {
        Author::Admin(admin(n).public())
    }

    fn with_reason(reason: String) -> OpBody {
        OpBody::Revoke { device: device(9), reason, knet_generation: 0, knet_hash: [0; 32] }
    }

    fn resigned(op: &SignedAct, signature: Signature) -> Unverified<SignedOp> {
        let bytes = op.signed().bytes.clone();
        SignedOp::decode(&SignedOp { bytes, signature }.encode()).unwrap()
    }
}
