//! What a flooded socket takes: a program in the kernel drops strangers' path checks before they are
//! queued.
//!
//! A datagram that is received only to be dropped costs a microsecond, of which telling that it is a
//! stranger's is a tenth: the rest is queueing, waking and copying. So while strangers flood a socket, the
//! kernel is told whose checks to let through (`SO_ATTACH_FILTER`). It compares 32 bits of the tag, by a
//! hash: whoever receives has to look at the whole tag all the same.
//!
//! What is no STUN request passes. So does what was merged on arrival, which the program sees only the
//! first of: its length is not the one that the message says.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_H, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_K, BPF_LD, BPF_LEN, BPF_MISC,
    BPF_MUL, BPF_RET, BPF_TAX, BPF_W, BPF_X, BPF_XOR, sock_filter, sock_fprog,
};

use super::steer::{jump, op};
use crate::wire::stun::CheckTag;

/// Tags that one program holds: 250 members with three each. Where there are more, all checks pass.
const MAX_TAGS: usize = 750;

/// Tags that are compared one by one, once it is known among which a tag is: about the root of their
/// number.
const GROUP: usize = 30;

/// Offsets count from the UDP header.
const UDP_HEADER: u32 = 8;
/// The shortest message that is judged: STUN's header and a USERNAME with a tag.
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
/// Spreads the digits, of which only some bits differ: 2^32 divided by the golden ratio.
const SPREAD: u32 = 0x9e37_79b9;

/// What the program returns: so many bytes of the datagram are kept.
const PASS: sock_filter = sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: u32::MAX };
const DROP: sock_filter = sock_filter { k: 0, ..PASS };

/// Has the kernel drop what is a path check of none of `tags`.
pub(super) fn sift(socket: &UdpSocket, tags: &[CheckTag]) -> io::Result<()> {
    if tags.len() > MAX_TAGS {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut program = program(tags);
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(socket, libc::SO_ATTACH_FILTER, &program)
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

fn program(tags: &[CheckTag]) -> Vec<sock_filter> {
    let load = |size: u32, at: u32| op(BPF_LD | size | BPF_ABS, at);
    let length = op(BPF_LD | BPF_W | BPF_LEN, 0);
    let mut program = vec![
        length,
        jump(BPF_JGE, SHORTEST, 1, 0),
        PASS,
        load(BPF_H, UDP_HEADER),
        jump(BPF_JEQ, BINDING_REQUEST, 1, 0),
        PASS,
        load(BPF_W, UDP_HEADER + 4),
        jump(BPF_JEQ, MAGIC_COOKIE, 1, 0),
        PASS,
        load(BPF_H, UDP_HEADER + 2),
        op(BPF_ALU | BPF_ADD | BPF_K, UDP_HEADER + STUN_HEADER),
        op(BPF_MISC | BPF_TAX, 0),
        length,
        sock_filter { code: (libc::BPF_JMP | BPF_JEQ | BPF_X) as u16, jt: 1, jf: 0, k: 0 },
        PASS,
        load(BPF_W, UDP_HEADER + STUN_HEADER),
        jump(BPF_JEQ, USERNAME, 1, 0),
        DROP,
        load(BPF_W, DIGITS[0]),
    ];
    for at in &DIGITS[1..] {
        program.extend([
            op(BPF_ALU | BPF_MUL | BPF_K, SPREAD),
            op(BPF_MISC | BPF_TAX, 0),
            load(BPF_W, *at),
            op(BPF_ALU | BPF_XOR | BPF_X, 0),
        ]);
    }
    let mut hashes: Vec<u32> = tags.iter().map(hash).collect();
    hashes.sort_unstable();
    for group in hashes.chunks(GROUP) {
        let (count, last) = (group.len() as u8, group[group.len() - 1]);
        // Past the group, its comparisons and both its ends, where the tag is in a later one.
        program.push(jump(BPF_JGT, last, count + 2, 0));
        program.extend((1..).zip(group).map(|(at, hash)| jump(BPF_JEQ, *hash, count - at + 1, 0)));
        program.extend([DROP, PASS]);
    }
    program.push(DROP);
    program
}

/// What the program computes of the digits of a tag.
fn hash(tag: &CheckTag) -> u32 {
    let digits = tag.digits();
    let words = digits
        .as_bytes()
        .chunks_exact(4)
        .map(|word| word.iter().fold(0, |word: u32, byte| word << 8 | u32::from(*byte)));
    words.fold(0, |hash, word| hash.wrapping_mul(SPREAD) ^ word)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::time::Duration;

    use super::*;
    use crate::identity::WgSecret;
    use crate::wire::stun::{CheckKey, CheckRequest, CheckResponse, StunRequest, TransactionId};

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

    /// Sends all, and what then came.
    fn pass(socket: &UdpSocket, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut came = Vec::new();
        for datagram in datagrams.iter().chain([&b"end".to_vec()]) {
            socket.send_to(datagram, socket.local_addr().unwrap()).unwrap();
        }
        let mut buffer = [0; 2000];
        while !came.ends_with(&[b"end".to_vec()]) {
            let len = socket.recv(&mut buffer).unwrap();
            came.push(buffer[..len].to_vec());
        }
        came.pop();
        came
    }

    fn sockets() -> Vec<UdpSocket> {
        let at = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()];
        let sockets: Vec<_> = at.into_iter().flat_map(UdpSocket::bind).collect();
        for socket in &sockets {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        sockets
    }

    #[test]
    fn of_path_checks_only_those_with_a_tag_it_was_told_pass() {
        for socket in sockets() {
            for count in [0, 1, GROUP - 1, GROUP, GROUP + 1, 4 * GROUP, MAX_TAGS] {
                let tags: Vec<_> = (0..count).map(tag).collect();
                sift(&socket, &tags).unwrap();
                let known: Vec<_> = (0..count).map(check).collect();
                let strangers: Vec<_> = (count..count + 100).map(check).collect();
                for (known, strangers) in known.chunks(50).zip(strangers.chunks(50).cycle()) {
                    assert_eq!(pass(&socket, &[strangers, known].concat()), known);
                }
                assert_eq!(pass(&socket, &strangers), Vec::<Vec<u8>>::new());
                take_all(&socket).unwrap();
                assert_eq!(pass(&socket, &strangers), strangers);
            }
            let many: Vec<_> = (0..=MAX_TAGS).map(tag).collect();
            assert!(sift(&socket, &many).is_err());
        }
    }

    #[test]
    fn all_but_requests_passes_and_requests_of_nobody_do_not() {
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
        let nameless = StunRequest { transaction, change: (true, false) }.encode();
        let mut padded = nameless.clone();
        padded.extend([0; 40]);
        padded[3] += 40;
        for socket in sockets() {
            sift(&socket, &[tag(3)]).unwrap();
            assert_eq!(pass(&socket, &others), others);
            assert_eq!(pass(&socket, &[padded.clone(), check(1)]), Vec::<Vec<u8>>::new());
        }
    }
}
