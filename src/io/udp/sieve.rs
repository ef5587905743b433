//! What a flooded socket takes: a program in the kernel drops what strangers send before it is
//! queued.
//!
//! A datagram that is received only to be dropped costs a microsecond, of which telling that it is a
//! stranger's is a tenth: the rest is queueing, waking and copying. So while strangers flood a socket,
//! the kernel is told who is known (`SO_ATTACH_FILTER`). Three rules, the first that fits:
//!
//! 1. What comes from an address that something was sent to passes.
//! 2. A path check passes if its tag is somebody's.
//! 3. All else passes *by lot*: as many as somebody who floods us may cost us, and among them now and
//!    then a stranger that means well.
//!
//! The program compares 32 bits, of tags and IPv6 addresses by a hash under a key of its own, so that
//! nobody can make up an address that passes for another; whoever receives has to look at the whole
//! all the same. What was merged on arrival, which the program sees only the first of, is no path check
//! to it: its length is not the one that the message says.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_H, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K,
    BPF_LD, BPF_LEN, BPF_MISC, BPF_MUL, BPF_RET, BPF_TAX, BPF_W, BPF_X, BPF_XOR, SKF_AD_OFF,
    SKF_AD_RANDOM, SKF_NET_OFF, sock_filter, sock_fprog,
};

use super::Family;
use super::steer::{jump, op};
use crate::forward::Known;
use crate::wire::stun::CheckTag;

/// Tags that one program compares: 250 members with three each. Where there are more, or not all
/// are known, every path check passes.
pub const MAX_TAGS: usize = 750;

/// Sources that one program compares, the first ones. With the tags that is three quarters of what
/// a program may be long, 4,096 instructions.
pub const MAX_SOURCES: usize = 2000;

/// Values that are compared one by one, once it is known among which a value is: about the root of
/// their number.
const GROUP: usize = 30;

/// Offsets count from the UDP header.
const UDP_HEADER: u32 = 8;
/// The shortest message that is a check: STUN's header and a USERNAME with a tag.
const SHORTEST: u32 = UDP_HEADER + 40;
/// The first two bytes of a Binding request, and bytes 4 to 8 (RFC 8489, section 5).
const BINDING_REQUEST: u32 = 1;
const MAGIC_COOKIE: u32 = 0x2112_a442;
/// The length of a STUN header, which its length field leaves out.
const STUN_HEADER: u32 = 20;
/// Type and length of the USERNAME of a check.
const USERNAME: u32 = 0x0006_0010;
/// Where the four words of the tag's digits are.
const DIGITS: [u32; 4] = [32, 36, 40, 44];
/// What the program returns: so many bytes of the datagram are kept.
const PASS: sock_filter = sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: u32::MAX };
const DROP: sock_filter = sock_filter { k: 0, ..PASS };

/// Where a jump goes that is not known yet.
const AHEAD: u8 = u8::MAX;

/// Has the kernel drop what comes from nobody in `known`, but for one in 2^`lot`.
///
/// While a program replaces another, the kernel has room for both or refuses (`net.core.optmem_max`,
/// 20 KiB before Linux 6.8): then the other one goes first, and where even that is not enough, path
/// checks are left to whoever receives.
pub(super) fn sift(socket: &UdpSocket, family: Family, known: &Known, lot: u32) -> io::Result<()> {
    let whole = Program::new(family, known.tags.as_deref(), &known.sources, lot);
    whole.attach(socket).or_else(|_| {
        take_all(socket).ok();
        let short = || Program::new(family, None, &known.sources, lot);
        whole.attach(socket).or_else(|_| short().attach(socket))
    })
}

/// Takes everything again.
pub(super) fn take_all(socket: &UdpSocket) -> io::Result<()> {
    set(socket, libc::SO_DETACH_FILTER, &0i32)
}

fn set<T>(socket: &UdpSocket, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of_val(value) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel copies the value, with the instructions that a
    // program points to, which live until then.
    let done = unsafe {
        let value = std::ptr::from_ref(value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value, len)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The instructions, and the key of its hashes.
struct Program {
    instructions: Vec<sock_filter>,
    key: u32,
}

impl Program {
    fn new(family: Family, tags: Option<&[CheckTag]>, sources: &[IpAddr], lot: u32) -> Self {
        // Odd, so that no bit of a word is lost.
        let key = RandomState::new().hash_one(0) as u32 | 1;
        let mut program = Self { instructions: Vec::new(), key };
        program.load_hash(&source_words(family));
        let sources = sources.iter().take(MAX_SOURCES);
        program.pass_one_of(sources.filter_map(|source| match (family, source) {
            (Family::V4, IpAddr::V4(v4)) => Some(v4.to_bits()),
            (Family::V6, IpAddr::V6(v6)) => Some(hash(&v6.octets(), key)),
            _ => None,
        }));
        let by_lot = by_lot(lot);
        program.extend(skip_unless_a_request());
        program.extend([op(BPF_JMP | BPF_JA, by_lot.len() as u32)]);
        program.extend(by_lot);
        let Some(tags) = tags else {
            program.extend([PASS]);
            return program;
        };
        program.extend([
            load(BPF_W, UDP_HEADER + STUN_HEADER),
            jump(BPF_JEQ, USERNAME, 1, 0),
            DROP,
        ]);
        program.load_hash(&DIGITS);
        program.pass_one_of(tags.iter().map(|tag| hash(tag.digits().as_bytes(), key)));
        program.extend([DROP]);
        program
    }

    fn attach(&self, socket: &UdpSocket) -> io::Result<()> {
        let len =
            u16::try_from(self.instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let program = sock_fprog { len, filter: self.instructions.as_ptr().cast_mut() };
        set(socket, libc::SO_ATTACH_FILTER, &program)
    }

    fn extend(&mut self, instructions: impl IntoIterator<Item = sock_filter>) {
        self.instructions.extend(instructions);
    }

    /// Loads the [`hash`] of the words at these offsets.
    fn load_hash(&mut self, words: &[u32]) {
        self.extend([load(BPF_W, words[0])]);
        for at in &words[1..] {
            self.extend([
                op(BPF_ALU | BPF_MUL | BPF_K, self.key),
                op(BPF_MISC | BPF_TAX, 0),
                load(BPF_W, *at),
                op(BPF_ALU | BPF_XOR | BPF_X, 0),
            ]);
        }
    }

    /// Passes if one of `values` was loaded, else goes on behind.
    fn pass_one_of(&mut self, values: impl Iterator<Item = u32>) {
        let mut values: Vec<u32> = values.collect();
        values.sort_unstable();
        let len: usize = values.chunks(GROUP).map(|group| group.len() + 3).sum();
        let end = self.instructions.len() + len;
        for group in values.chunks(GROUP) {
            let (count, last) = (group.len() as u8, group[group.len() - 1]);
            // Past the group, its comparisons and both its ends, where the value is in a later one.
            self.extend([jump(BPF_JGT, last, count + 2, 0)]);
            self.extend((1..).zip(group).map(|(at, one)| jump(BPF_JEQ, *one, count - at + 1, 0)));
            let rest = end - self.instructions.len() - 1;
            self.extend([op(BPF_JMP | BPF_JA, rest as u32), PASS]);
        }
    }
}

/// One in 2^`lot` passes, whatever it is.
fn by_lot(lot: u32) -> Vec<sock_filter> {
    let random = load(BPF_W, (SKF_AD_OFF + SKF_AD_RANDOM).cast_unsigned());
    let others = 1u32.checked_shl(lot).unwrap_or(0).wrapping_sub(1);
    vec![random, jump(BPF_JSET, others, 1, 0), PASS, DROP]
}

/// Skips the instruction that follows, unless the datagram is a STUN request.
fn skip_unless_a_request() -> Vec<sock_filter> {
    let length = op(BPF_LD | BPF_W | BPF_LEN, 0);
    let mut tests = vec![
        length,
        jump(BPF_JGE, SHORTEST, 0, AHEAD),
        load(BPF_H, UDP_HEADER),
        jump(BPF_JEQ, BINDING_REQUEST, 0, AHEAD),
        load(BPF_W, UDP_HEADER + 4),
        jump(BPF_JEQ, MAGIC_COOKIE, 0, AHEAD),
        load(BPF_H, UDP_HEADER + 2),
        op(BPF_ALU | BPF_ADD | BPF_K, UDP_HEADER + STUN_HEADER),
        op(BPF_MISC | BPF_TAX, 0),
        length,
        sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_X) as u16, jt: 0, jf: AHEAD, k: 0 },
    ];
    let end = tests.len();
    for (at, test) in tests.iter_mut().enumerate().filter(|(_, test)| test.jf == AHEAD) {
        test.jf = (end - at) as u8;
    }
    tests
}

/// Where the source address is.
fn source_words(family: Family) -> Vec<u32> {
    let words: &[u32] = match family {
        Family::V4 => &[12],
        Family::V6 => &[8, 12, 16, 20],
    };
    words.iter().map(|at| SKF_NET_OFF.cast_unsigned() + at).collect()
}

fn load(size: u32, at: u32) -> sock_filter {
    op(BPF_LD | size | BPF_ABS, at)
}

/// 32 bits for four words.
fn hash(bytes: &[u8], key: u32) -> u32 {
    let words = bytes
        .chunks_exact(4)
        .map(|word| word.iter().fold(0, |word: u32, byte| word << 8 | u32::from(*byte)));
    words.fold(0, |hash, word| hash.wrapping_mul(key) ^ word)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::time::Duration;

    use super::*;
    use crate::forward::Version;
    use crate::identity::WgSecret;
    use crate::wire::stun::{CheckKey, CheckRequest, CheckResponse, StunRequest, TransactionId};

    /// So rare that it never wins.
    const NONE: u32 = 32;

    fn key() -> CheckKey {
        let (own, peer) = (WgSecret::from_bytes([1; 32]), WgSecret::from_bytes([2; 32]));
        CheckKey::derive(&own, &peer.public()).unwrap()
    }

    fn tag(number: usize) -> CheckTag {
        CheckTag((number as u64).wrapping_mul(0xd134_2543_de82_ef95).to_be_bytes())
    }

    fn check(number: usize) -> Vec<u8> {
        CheckRequest { transaction: TransactionId::new([7; 12]), tag: tag(number) }.encode(&key())
    }

    fn tags(tags: impl IntoIterator<Item = usize>) -> Known {
        let tags = tags.into_iter().map(tag).collect();
        Known { tags: Some(tags), sources: Vec::new(), version: Version::default() }
    }

    /// Addresses that nobody here has, of both families.
    fn elsewhere(count: u32) -> Vec<IpAddr> {
        let spread = |number: u32| number.wrapping_mul(0x0765_4321);
        let v4 = (0..count).map(|number| Ipv4Addr::from_bits(0x0a00_0000 | spread(number) >> 8));
        let v6 = (0..count).map(|number| Ipv6Addr::from_bits(u128::from(spread(number)) << 64));
        v4.map(IpAddr::from).chain(v6.map(IpAddr::from)).collect()
    }

    /// What `socket` receives of this; nothing is sifted afterwards.
    fn pass(socket: &UdpSocket, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let to = socket.local_addr().unwrap();
        for datagram in datagrams {
            socket.send_to(datagram, to).unwrap();
        }
        // There may be nothing to take away.
        take_all(socket).ok();
        socket.send_to(b"end", to).unwrap();
        let (mut came, mut buffer) = (Vec::new(), [0; 2000]);
        loop {
            let len = socket.recv(&mut buffer).unwrap();
            if buffer[..len] == *b"end" {
                return came;
            }
            came.push(buffer[..len].to_vec());
        }
    }

    fn sockets() -> Vec<(Family, UdpSocket)> {
        let v4 = (Family::V4, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let v6 = (Family::V6, SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
        let sockets =
            [v4, v6].map(|(family, at)| UdpSocket::bind(at).map(|socket| (family, socket)));
        let sockets: Vec<_> = sockets.into_iter().flatten().collect();
        for (_, socket) in &sockets {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        sockets
    }

    #[test]
    fn of_path_checks_only_those_with_a_tag_it_was_told_pass() {
        for (family, socket) in sockets() {
            for count in [0, 1, GROUP - 1, GROUP, GROUP + 1, 4 * GROUP, MAX_TAGS] {
                let mut told = tags(0..count);
                told.sources = elsewhere(1000);
                let known: Vec<_> = (0..count).map(check).collect();
                let strangers: Vec<_> = (count..count + 100).map(check).collect();
                for known in known.chunks(50) {
                    sift(&socket, family, &told, 0).unwrap();
                    assert_eq!(pass(&socket, &[&strangers[..50], known].concat()), known);
                }
                sift(&socket, family, &told, 0).unwrap();
                assert_eq!(pass(&socket, &strangers), Vec::<Vec<u8>>::new());
                assert_eq!(pass(&socket, &strangers), strangers);
            }
            let unknown = Known { tags: None, ..tags([]) };
            sift(&socket, family, &unknown, NONE).unwrap();
            assert_eq!(pass(&socket, &[check(1), vec![7; 48]]), [check(1)]);
        }
    }

    #[test]
    fn of_all_else_a_lot_passes_but_all_from_whoever_was_asked() {
        let transaction = TransactionId::new([7; 12]);
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let answer = CheckResponse { transaction, mapped }.encode(&key());
        let mut handshakes = [vec![0; 148], vec![0; 92], vec![0; 64], vec![0; 32]];
        for (kind, handshake) in (1..).zip(&mut handshakes) {
            handshake[0] = kind;
        }
        let merged = [check(1), check(2)].concat();
        let mut others = vec![vec![], vec![1], check(1)[..47].to_vec(), answer, merged];
        others.extend(handshakes);
        for (family, socket) in sockets() {
            let own = socket.local_addr().unwrap().ip();
            for count in [0, 1, GROUP as u32, GROUP as u32 + 1, 1999] {
                let mut told = tags([3]);
                told.sources = elsewhere(count);
                sift(&socket, family, &told, NONE).unwrap();
                assert_eq!(pass(&socket, &others), Vec::<Vec<u8>>::new());
                sift(&socket, family, &told, 0).unwrap();
                assert_eq!(pass(&socket, &others), others);
                told.sources.truncate(MAX_SOURCES - 1);
                told.sources.push(own);
                sift(&socket, family, &told, NONE).unwrap();
                let all = [&others[..], &[check(1)]].concat();
                assert_eq!(pass(&socket, &all), all);
            }
            let mut passed = 0;
            for _ in 0..100 {
                sift(&socket, family, &tags([]), 2).unwrap();
                passed += pass(&socket, &vec![vec![9; 100]; 40]).len();
            }
            // A quarter of 4,000, and twelve standard deviations.
            assert!((670..1330).contains(&passed), "{passed}");
        }
    }

    #[test]
    fn a_request_without_a_name_is_nobodys() {
        let transaction = TransactionId::new([7; 12]);
        let mut nameless = StunRequest { transaction, change: (true, false) }.encode();
        nameless.extend([0; 40]);
        nameless[3] += 40;
        for (family, socket) in sockets() {
            sift(&socket, family, &tags([3]), 0).unwrap();
            assert_eq!(pass(&socket, &[nameless.clone(), check(1)]), Vec::<Vec<u8>>::new());
        }
    }
}
