//! What members say to one another, one of everything: seeds of the fuzz targets, and what the
//! codec's own tests try.

use ginnel::identity::{DeviceId, Signature, WgPublicKey};
use ginnel::membership::{InviteId, OpId};
use ginnel::wire::control::join::{
    JoinAccepted, JoinClaim, JoinGranted, JoinHello, JoinOffer, JoinProve, JoinRefused,
    JoinRequest, Refusal,
};
use ginnel::wire::control::{
    AuthorTag, Control, Endpoints, Fetch, Goodbye, HeadEntry, Heads, Hello, Introduction,
    IntroductionRequest, OpBytes, Ops, Passing, Ping, Pong, Proof, Reply,
};
use ginnel::wire::record::NetworkSecret;

/// Messages of every kind, in the order of the wire format; of each goodbye one.
pub fn every_message() -> Vec<Control> {
    let device = DeviceId([7; 32]);
    let at = || Endpoints {
        seq: 1_700_000_000,
        endpoints: ["192.0.2.1:41641", "[2001:db8::1]:41641"]
            .map(|text| text.parse().expect("an address"))
            .to_vec(),
        nat: 1,
    };
    let author = AuthorTag([1; 8]);
    let entry = HeadEntry { author, seq: 300, head: [2; 8], aside: Some([3; 8]) };
    let invite = InviteId([1; 16]);
    let claim = JoinClaim {
        invite,
        id: device,
        wg: WgPublicKey([9; 32]),
        admin: None,
        name: "laptop".parse().expect("a name"),
        bind_sig: Signature([4; 64]),
    };
    vec![
        Control::Hello(Hello {
            version: 1,
            id: device,
            cert: OpId([2; 32]),
            digest: [3; 8],
            knet_generation: 1,
            nonce: [4; 16],
        }),
        Control::Proof(Proof { signature: Signature([5; 64]) }),
        Control::Heads(Heads { digest: [1; 8], ask: true, entries: vec![entry; 3] }),
        Control::Fetch(Fetch { author, from: 17 }),
        Control::Ops(Ops {
            reply: Some(Reply { author, index: 1, left: 2, next: 300, end: false }),
            ops: vec![OpBytes(vec![9; 150]); 2],
        }),
        Control::Secret((&NetworkSecret::new(3, [42; 32])).into()),
        Control::Endpoints(at()),
        Control::Introduce(IntroductionRequest {
            device,
            at: at(),
            passing: Passing::ByLot,
            way: vec![device; 2],
        }),
        Control::Introduced(Introduction { device, at: at(), way: vec![device] }),
        Control::Ping(Ping { token: u64::MAX, padding: vec![0; 30] }),
        Control::Pong(Pong { token: 1, observed: Some(([192, 0, 2, 1], 7).into()) }),
        Control::Goodbye(Goodbye::Leaving),
        Control::Goodbye(Goodbye::Down),
        Control::Goodbye(Goodbye::Idle),
        Control::JoinHello(JoinHello { invite, nonce: [2; 16] }),
        Control::JoinOffer(JoinOffer {
            guest_nonce: [1; 16],
            nonce: [2; 16],
            part: 0,
            parts: 1,
            genesis: vec![3; 60],
            ops: vec![OpBytes(vec![4; 150])],
        }),
        Control::JoinRequest(Box::new(JoinRequest {
            claim,
            guest_nonce: [6; 16],
            by_invite: Signature([7; 64]),
            by_device: Signature([8; 64]),
        })),
        Control::JoinAccepted(JoinAccepted { id: device }),
        Control::JoinProve(JoinProve { invite, id: device, have: 7 }),
        Control::JoinGranted(JoinGranted { id: device, grant: OpId([1; 32]) }),
        Control::JoinRefused(JoinRefused { reason: Refusal::Used }),
    ]
}
