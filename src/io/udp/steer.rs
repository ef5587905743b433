//! Which of the sockets of a port gets a datagram: a program in the kernel chooses.
//!
//! Transport datagrams are spread over the data sockets by their sender's address and port, so that
//! all of one sender's come to one of them, in order. Everything else goes to the *gate*, where it can be
//! as much as it likes without standing before the data in a queue, waking who waits for data, or
//! taking its room.
//!
//! The program (`SO_ATTACH_REUSEPORT_CBPF`, Linux 4.5) sees the first of datagrams that were merged
//! on arrival, so that others of the same sender may be among them: whoever receives has to tell
//! datagrams apart all the same.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use libc::{
    BPF_ABS, BPF_ALU, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_LEN, BPF_MISC, BPF_MOD,
    BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W, BPF_X, BPF_XOR, SKF_NET_OFF, sock_filter,
    sock_fprog,
};

use super::Family;

/// The shortest transport datagram: header and tag.
const SHORTEST: u32 = 32;

/// The first four bytes of a transport datagram (WireGuard paper, section 5.4.6).
const TRANSPORT: u32 = 0x0400_0000;

/// Spreads neighbouring addresses and ports: 2^32 divided by the golden ratio (Knuth, The Art of
/// Computer Programming, section 6.4).
const SPREAD: u32 = 0x9e37_79b9;

/// Steers what arrives at the port of `socket`, which it shares with others: the first `data` that
/// were bound get transport datagrams, the one after them the rest.
pub(super) fn steer(socket: &UdpSocket, family: Family, data: u32) -> io::Result<()> {
    let mut program = program(family, data);
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the descriptor is open; the kernel copies the instructions, which live until then.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the number of a socket; offsets count from the UDP payload.
fn program(family: Family, data: u32) -> Vec<sock_filter> {
    let mut program = vec![
        op(BPF_LD | BPF_W | BPF_LEN, 0),
        jump(BPF_JGE, SHORTEST, 0, 2),
        op(BPF_LD | BPF_W | BPF_ABS, 0),
        jump(BPF_JEQ, TRANSPORT, 1, 0),
        op(BPF_RET | BPF_K, data),
    ];
    // Of an IP header without options: the source address, and the source port behind it.
    let (address, port) = match family {
        Family::V4 => (&[12][..], 20),
        Family::V6 => (&[8, 12, 16, 20][..], 40),
    };
    let header = |at: u32| op(BPF_LD | BPF_W | BPF_ABS, SKF_NET_OFF.cast_unsigned() + at);
    program.extend([header(port), op(BPF_ALU | BPF_RSH | BPF_K, 16)]);
    for at in address {
        let xor = op(BPF_ALU | BPF_XOR | BPF_X, 0);
        program.extend([op(BPF_MISC | BPF_TAX, 0), header(*at), xor]);
    }
    program.extend([
        op(BPF_ALU | BPF_MUL | BPF_K, SPREAD),
        op(BPF_ALU | BPF_RSH | BPF_K, 16),
        op(BPF_ALU | BPF_MOD | BPF_K, data),
        op(BPF_RET | RETURN_A, 0),
    ]);
    program
}

/// "Return the accumulator"; the C library's headers have it, not the crate.
const RETURN_A: u32 = 0x10;

pub(super) fn op(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Compares the accumulator; skips so many instructions where it holds, and where not.
pub(super) fn jump(comparison: u32, k: u32, holds: u8, fails: u8) -> sock_filter {
    sock_filter { jt: holds, jf: fails, ..op(BPF_JMP | comparison | BPF_K, k) }
}
