//! Fuzz targets: every parser of bytes that come from outside, as a plain function of bytes.
//!
//! Each [`Target`] is a function that must never panic, never take longer than [`MAX_TIME`] and
//! never allocate more than its bound ([`MAX_ALLOCATION`], most far less) at once; beyond that it asserts what must hold of
//! what it parsed. Who runs them:
//!
//! * `scripts/fuzz.sh`: libFuzzer, by the programs in `bin/`, one line each.
//! * `tests/fuzz_corpus.rs`, in `cargo test`: every target on its seeds and on `corpus/NAME/`.
//!
//! Most of what arrives is sealed or signed, and bytes that were mutated never pass such a check.
//! So targets take a first byte that says whether what follows comes from a stranger (as it is) or
//! from somebody who holds the keys (the target seals or signs it before it is parsed).
//!
//! # What covers what
//!
//! | parser | target |
//! |---|---|
//! | `wire::classify`, `forward::ingress`, `HandshakeGuard`, `Tunnel::open_into` | `datagram` |
//! | `forward::tunnel`: `Initiation`, `Tunnel::handle_handshake` | `handshake` |
//! | `wire::stun`: `Envelope`, `CheckRequest`, `CheckResponse`, `StunResponse` | `stun` |
//! | `wire::record`: `SignedItem` (what the DHT adapter hands on), `Record`, `Bell`, `Meeting` | `record` |
//! | `wire::control`: `decode_packet`, `Control` with `join` and `sync` | `control` |
//! | `membership`: `SignedOp`, `Op`, `OpBody`, `Certificate`, `InviteOpen` | `op` |
//! | `membership::Genesis` | `genesis` |
//! | `membership::Invite` | `invite` |
//! | `wire::beacon` | `beacon` |
//! | `config` with `HostPort`, `InterfacePrefix`, `LogFilter` | `config` |
//! | `agent::server`: request lines; `api::Response`, which the command line reads | `api` |
//! | `identity`: keys, pools; `membership::policy`: names, reasons | `text` |
//! | `forward::aead` | `aead` |
//! | `forward::packet`, `forward::table` | `packet` |
//! | `forward::segment`: `VnetHeader`, `Segments` | `segment` |
//! | `forward::coalesce` | `coalesce` |
//! | `forward::segment`: `Segments::fit`; `forward::fragment` | `narrow` |
//! | `wire::saved`, `wire::record::cache`, `NetworkSecret`, `Identity` | `saved` |
//! | `io::store`: the file of ops | `store` |
//!
//! `history` is of another kind: its bytes are the choices of a history of many devices, which the
//! simulator lives (`tests/sim`). It takes a second, not microseconds, so it is not replayed here;
//! what it finds, `SIM_BYTES` replays there, and it is kept as a scenario.
//!
//! Not here, because the parser is a dependency's and what we do with the result branches on typed
//! values only: DHT messages (n0-mainline), answers of routers (crab_nat, igd-next), the kernel's
//! netlink messages (netlink-packet-route), command lines (clap). `/etc/passwd` and `/etc/group`
//! (`agent::server::access`) belong to root; an invite that the user types (`cli::invite_text`) is
//! freed of white space and then `invite`'s.

#![allow(
    clippy::disallowed_methods,
    reason = "a fuzz target makes up its instants from the real clock and measures with it"
)]

mod coalesce;
mod datagram;
mod files;
mod member;
mod messages;
mod narrow;
mod packets;
mod record;
mod said;
mod sealed;
mod stun;
mod text;
mod watch;

use std::time::Duration;

/// The longest that one input may take of a core.
pub const MAX_TIME: Duration = Duration::from_millis(10);

/// The largest single allocation, in bytes.
pub const MAX_ALLOCATION: usize = 1 << 20;

/// What the codecs of `wire` and `membership` may allocate at once, in bytes: none takes an input
/// longer than a packet, and a decoder allocates no more than its input; the rest is what vectors
/// grow by and what messages of errors need.
const CODEC: usize = 16 << 10;

/// The same of STUN: its decoder lists attributes of 64 bytes, of which the shortest takes four in a
/// message of [`MAX_LEN`](ginnel::wire::stun::MAX_LEN) bytes, in a list that doubles.
const STUN: usize = 64 << 10;

/// One parser, or a few that read the same bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, in `bin/` and `corpus/`.
    pub name: &'static str,
    run: fn(&[u8]),
    /// Valid inputs, made by the crate's own encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
    max_allocation: usize,
}

/// What inputs cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// The largest single allocation, in bytes.
    pub largest_allocation: usize,
    /// Of a core, for one input.
    pub time: Duration,
}

impl Cost {
    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            largest_allocation: self.largest_allocation.max(other.largest_allocation),
            time: self.time.max(other.time),
        }
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target::new("datagram", datagram::datagram, datagram::seeds, MAX_ALLOCATION),
    Target::new("handshake", datagram::handshake, datagram::handshake_seeds, MAX_ALLOCATION),
    Target::new("stun", stun::stun, stun::seeds, STUN),
    Target::new("record", record::record, record::seeds, CODEC),
    Target::new("control", said::control, said::control_seeds, CODEC),
    Target::new("beacon", said::beacon, said::beacon_seeds, CODEC),
    Target::new("op", member::op, member::op_seeds, CODEC),
    Target::new("genesis", member::genesis, member::genesis_seeds, CODEC),
    Target::new("invite", member::invite, member::invite_seeds, CODEC),
    Target::new("config", text::config, text::config_seeds, MAX_ALLOCATION),
    Target::new("api", text::api, text::api_seeds, MAX_ALLOCATION),
    Target::new("text", text::text, text::text_seeds, CODEC),
    Target::new("packet", packets::packet, packets::packet_seeds, CODEC),
    Target::new("segment", packets::segment, packets::segment_seeds, MAX_ALLOCATION),
    Target::new("coalesce", coalesce::coalesce, coalesce::seeds, MAX_ALLOCATION),
    Target::new("narrow", narrow::narrow, narrow::seeds, MAX_ALLOCATION),
    Target::new("aead", sealed::aead, sealed::seeds, CODEC),
    Target::new("saved", files::saved, files::saved_seeds, MAX_ALLOCATION),
    Target::new("store", files::store, files::store_seeds, MAX_ALLOCATION),
];

impl Target {
    const fn new(
        name: &'static str,
        run: fn(&[u8]),
        seeds: fn() -> Vec<Vec<u8>>,
        max_allocation: usize,
    ) -> Self {
        Self { name, run, seeds, max_allocation }
    }

    /// Runs one input.
    ///
    /// # Panics
    /// Where the parser does, or a property or a bound does not hold; `patience` times
    /// [`MAX_TIME`] are allowed, for builds that are not optimized.
    pub fn run(&self, data: &[u8], patience: u32) -> Cost {
        let mut time = Duration::ZERO;
        let largest_allocation = watch::largest_allocation(|| {
            time = watch::within(MAX_TIME * patience, || (self.run)(data));
        });
        assert!(
            largest_allocation <= self.max_allocation,
            "{}: one allocation of {largest_allocation} bytes for an input of {}",
            self.name,
            data.len()
        );
        Cost { largest_allocation, time }
    }
}

/// An input that is read from its front; past its end come zeros, so that every input means
/// something.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.take(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// At most `len` bytes.
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}
