//! Overwrites what a handshake left on the stack.
//!
//! Keys are zeroized where they lie in the end. But on the way there they were moved and returned, and
//! HKDF, BLAKE2s, X25519 and ring worked with them: each left copies in frames that nobody uses any
//! more, until something else happens to be called as deep. A process that waits for packets hardly
//! calls anything. (What sealing a packet leaves there, the next packet overwrites.)

use std::hint::black_box;

use zeroize::Zeroize;

/// Of eight bytes each, 32 KiB: in a debug build 8 KiB are enough and 4 are not. A microsecond, beside the
/// hundred of a handshake's key agreements.
const WORDS: usize = 4096;

/// Does what is secret in frames of its own, and overwrites them.
pub(super) fn wiped<T>(work: impl FnOnce() -> T) -> T {
    let done = below(work);
    overwrite();
    done
}

#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn overwrite() {
    let mut words = [0u64; WORDS];
    words.zeroize();
    black_box(&words);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Instant;

    use super::super::tests::{pair, secret};
    use super::super::{DATA_HEADER, Initiation, SEAL_OVERHEAD};
    use super::*;
    use crate::forward::aead::TransportKey;

    /// The stack of the thread that shakes hands, and how much of it is looked through, from where that
    /// thread waits downwards.
    const STACK: usize = 512 << 10;
    const SEEN: usize = 256 << 10;

    /// What `work` makes in a thread of its own, and what it leaves on the dead part of that stack.
    fn left_by<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (T, Vec<u8>) {
        let ((done, wait), (end, ended)) = (channel(), channel::<()>());
        let thread = thread::Builder::new().stack_size(STACK).spawn(move || {
            let here = black_box(0u8);
            done.send((work(), (&raw const here).addr())).unwrap();
            ended.recv().unwrap();
        });
        let (made, top) = wait.recv().unwrap();
        let mut dead = vec![0; SEEN];
        let memory = File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut dead, (top - SEEN) as u64).unwrap();
        end.send(()).unwrap();
        thread.unwrap().join().unwrap();
        (made, dead)
    }

    /// Whether any 32 bytes of `dead` are the key that sealed the keepalive.
    fn opens(dead: &[u8], keepalive: &[u8]) -> bool {
        let mut keys = dead.array_windows::<32>();
        keys.any(|key| {
            let zeroes = key.iter().filter(|byte| **byte == 0).count();
            let opens = || TransportKey::new(key).open_into(0, &keepalive[DATA_HEADER..], &mut []);
            zeroes < 8 && opens().is_ok()
        })
    }

    #[test]
    fn no_key_of_a_session_is_left_on_the_stack_of_either_end() {
        let now = Instant::now();
        let (mut a, mut b) = pair();
        let message = a.initiate(now);
        let (response, of_b) = left_by(move || {
            let (read, mut out) = (Initiation::read(&secret(2), &message).unwrap(), Vec::new());
            b.handle_initiation(read, &mut out, now).unwrap();
            out.remove(0)
        });
        let (confirmation, of_a) = left_by(move || {
            let mut out = Vec::new();
            a.handle_handshake(&response, &mut out, now).unwrap();
            out.remove(0)
        });
        assert_eq!(confirmation.len(), SEAL_OVERHEAD);
        assert!(!opens(&of_b, &confirmation), "the responder");
        assert!(!opens(&of_a, &confirmation), "the initiator");
    }
}
