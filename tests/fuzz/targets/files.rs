//! What this device wrote itself and reads again: after a crash, a bad disk, or a backup.

use std::net::SocketAddr;

use ginnel::identity::{AdminSecret, DeviceId, IdSecret, Identity, NetworkId, WgSecret, hash};
use ginnel::io::store::ops::{End, MAX_OP_LEN, scan};
use ginnel::membership::UnixTime;
use ginnel::wire::record::{
    DhtKey, MAX_CACHED_DEVICES, MAX_CACHED_SEQS, NetworkSecret, decode_devices, decode_seqs,
    encode_devices, encode_seqs,
};
use ginnel::wire::saved::{Cache, Intent};

use super::Source;

/// The first byte says which file.
pub fn saved(data: &[u8]) {
    let mut source = Source(data);
    let kind = source.byte();
    let bytes = source.rest();
    match kind % 7 {
        0 => {
            if let Some(intent) = Intent::decode(bytes) {
                let encoded = intent.encode();
                let again = Intent::decode(&encoded).expect("what was written can be read");
                assert_eq!(again.encode(), encoded);
            }
        }
        1 => {
            if let Some(cache) = Cache::decode(bytes) {
                assert_eq!(Cache::decode(&cache.encode()), Some(cache));
            }
        }
        2 => {
            if let Ok(devices) = decode_devices(bytes) {
                assert!(devices.len() <= MAX_CACHED_DEVICES);
                assert_eq!(decode_devices(&encode_devices(&devices)), Ok(devices));
            }
        }
        3 => {
            if let Ok(seqs) = decode_seqs(bytes) {
                assert!(seqs.len() <= MAX_CACHED_SEQS);
                assert_eq!(decode_seqs(&encode_seqs(&seqs)), Ok(seqs));
            }
        }
        4 => {
            if let Some(secret) = NetworkSecret::decode(bytes) {
                assert_eq!(*secret.encode(), bytes);
            }
        }
        5 => identity(bytes),
        _ => identity(&[bytes, &hash(bytes)].concat()),
    }
}

fn identity(bytes: &[u8]) {
    if let Ok(identity) = Identity::decode(bytes)
        && let Some(admin) = &identity.admin
    {
        assert_eq!(*identity.encode(), bytes, "one form only");
        assert_eq!(identity.network.0, bytes[8..40]);
        assert_eq!(admin.seed(), &bytes[105..137]);
    }
}

pub fn saved_seeds() -> Vec<Vec<u8>> {
    let intent = Intent {
        name: "laptop".parse().expect("a name"),
        up: true,
        invite: Some("ginnel1abc".into()),
        interface: "ginnel0".into(),
        port: 41_641,
    };
    let endpoint: SocketAddr = ([192, 0, 2, 1], 41_641).into();
    let endpoint6: SocketAddr = "[2001:db8::1]:7".parse().expect("an address");
    let time = UnixTime(1_700_000_000);
    let devices = encode_devices(&[(DeviceId([7; 32]), time, vec![endpoint, endpoint6])]);
    let seqs = encode_seqs(&[(DhtKey([8; 32]), 1_700_000_000)]);
    let cache = Cache { devices: devices.clone(), published: seqs.clone() };
    let identity = |admin| Identity {
        network: NetworkId([1; 32]),
        id: IdSecret::from_seed([2; 32]),
        wg: WgSecret::from_bytes([3; 32]),
        admin,
    };
    let plain = identity(None).encode();
    let admin = identity(Some(AdminSecret::from_seed([4; 32]))).encode();
    let files: [(u8, &[u8]); 9] = [
        (0, &intent.encode()),
        (1, &cache.encode()),
        (2, &devices),
        // A list that says it has 2^28 entries.
        (2, &[1, 0xff, 0xff, 0xff, 0x7f]),
        (3, &seqs),
        (4, &NetworkSecret::new(3, [42; 32]).encode()),
        (5, &plain),
        (5, &admin),
        (6, &admin[..admin.len() - 32]),
    ];
    files.map(|(kind, bytes)| [&[kind], bytes].concat()).to_vec()
}

/// The file of ops: as it is, or, where the first byte is odd, whole frames of which the last bytes
/// are then cut or changed.
pub fn store(data: &[u8]) {
    let mut source = Source(data);
    if source.byte() & 1 == 0 {
        let bytes = source.rest();
        let scanned = scan(bytes);
        assert!(scanned.good_len <= bytes.len());
        assert!(scanned.ops.iter().all(|op| (1..=MAX_OP_LEN).contains(&op.len())));
        if scanned.good_len > 0 {
            assert_eq!(file_of(&scanned.ops), bytes[..scanned.good_len]);
        }
        assert_eq!(scanned.end == End::Clean, scanned.good_len == bytes.len() && !bytes.is_empty());
        return;
    }
    let (cut, at, xor) = (usize::from(source.byte()), usize::from(source.byte()), source.byte());
    let mut ops = Vec::new();
    while !source.0.is_empty() {
        let len = usize::from(source.byte()) + 1;
        ops.push(source.take(len).to_vec());
        ops.pop_if(|op| op.is_empty());
    }
    let mut file = file_of(&ops);
    file.truncate(file.len().saturating_sub(cut));
    let behind = file.len();
    if let Some(byte) = file.get_mut(behind.wrapping_sub(at)) {
        *byte ^= xor;
    }
    let scanned = scan(&file);
    let kept = scanned.ops.len();
    assert!(kept <= ops.len());
    assert_eq!(scanned.ops, ops[..kept], "never an op that was not written");
    if cut == 0 && xor == 0 {
        assert_eq!((kept, scanned.end), (ops.len(), End::Clean));
    }
}

/// The file that holds these ops.
fn file_of(ops: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"ginnelO1".to_vec();
    for op in ops {
        let len = (op.len() as u16).to_be_bytes();
        file.extend_from_slice(&len);
        file.extend_from_slice(&hash(&[&len[..], op].concat())[..8]);
        file.extend_from_slice(op);
    }
    file
}

pub fn store_seeds() -> Vec<Vec<u8>> {
    let file = file_of(&[vec![1; 40], vec![2; 90], vec![3]]);
    let mut seeds = vec![[&[0][..], &file].concat(), vec![0], [&[0][..], &file, &[0; 50]].concat()];
    seeds.push([&[0][..], &file[..file.len() - 20]].concat());
    seeds.push([&[0][..], b"ginnel\0\0\0"].concat());
    for damage in [[0, 0, 0], [30, 0, 0], [0, 9, 1], [0, 200, 1]] {
        seeds.push([&[1][..], &damage, &[19], &[7; 20], &[2, 1, 2, 3]].concat());
    }
    seeds
}
