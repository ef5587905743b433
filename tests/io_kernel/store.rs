use std::path::Path;

use ginnel::identity::{IdSecret, Identity, NetworkId, WgSecret};
use ginnel::io::store::{NetworkFile, Store, StoreError};

use crate::namespace::{isolated, sh};

const NETWORK: NetworkId = NetworkId([9; 32]);

fn identity(seed: u8) -> Vec<u8> {
    let network = NETWORK;
    let id = IdSecret::from_seed([seed; 32]);
    let identity = Identity { network, id, wg: WgSecret::from_bytes([seed; 32]), admin: None };
    identity.encode().to_vec()
}

/// A file system of its own for the state.
fn small_disk(size: &str) -> &'static Path {
    sh(&format!("mount -t tmpfs -o size={size},mode=0700 none /mnt"));
    Path::new("/mnt")
}

#[test]
fn a_full_disk_is_an_error_that_loses_nothing() {
    isolated(|| {
        let root = small_disk("96k");
        sh("dd if=/dev/zero of=/mnt/reserve bs=4k count=4 2>/dev/null");
        let store = Store::open(root).unwrap();
        let (mut network, _) = store.network(&NETWORK).unwrap();
        network.write(NetworkFile::Identity, &identity(1)).unwrap();
        network.write(NetworkFile::Secrets, b"before").unwrap();
        let op = vec![7; 900];
        let mut kept = 0;
        let error = loop {
            match network.append_ops(&[op.clone(), op.clone()]) {
                Ok(()) => kept += 2,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Full(_)), "{error:?}");
        assert!(error.to_string().contains("full"));
        assert!(kept > 20);
        // Whatever is left of the last page, too.
        sh("dd if=/dev/zero of=/mnt/filler bs=1k 2>/dev/null || true");
        for file in [NetworkFile::Identity, NetworkFile::Secrets] {
            let error = network.write(file, &identity(2)).unwrap_err();
            assert!(matches!(error, StoreError::Full(_)), "{error:?}");
        }
        drop((store, network));

        let store = Store::open(root).unwrap();
        let (mut network, loaded) = store.network(&NETWORK).unwrap();
        assert_eq!((loaded.ops.len(), loaded.mended), (kept, None));
        assert_eq!(*network.identity().unwrap().unwrap().encode(), identity(1));
        assert_eq!(**network.read(NetworkFile::Secrets).unwrap().unwrap(), b"before"[..]);

        sh("rm /mnt/filler /mnt/reserve");
        network.append_ops(&[b"again".to_vec()]).unwrap();
        network.write(NetworkFile::Identity, &identity(2)).unwrap();
        drop(store);
        let (_, loaded) = Store::open(root).unwrap().network(&NETWORK).unwrap();
        assert_eq!((loaded.ops.len(), loaded.mended), (kept + 1, None));
    });
}

#[test]
fn a_network_can_be_left_on_a_full_disk() {
    isolated(|| {
        let store = Store::open(small_disk("64k")).unwrap();
        let (network, _) = store.network(&NETWORK).unwrap();
        network.write(NetworkFile::Identity, &identity(1)).unwrap();
        sh("dd if=/dev/zero of=/mnt/filler bs=1k 2>/dev/null || true");
        store.forget(&NETWORK).unwrap();
        assert_eq!(store.networks().unwrap(), []);
        assert_eq!(sh("ls /mnt/trash"), "");
    });
}

#[test]
fn a_read_only_disk_is_named() {
    isolated(|| {
        let root = small_disk("1m");
        let store = Store::open(root).unwrap();
        let (mut network, _) = store.network(&NETWORK).unwrap();
        network.write(NetworkFile::Secrets, b"before").unwrap();
        drop((store, network));
        sh("mount -o remount,ro /mnt");
        let error = Store::open(root).unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly(_)), "{error:?}");

        sh("mount -o remount,rw /mnt");
        let store = Store::open(root).unwrap();
        network = store.network(&NETWORK).unwrap().0;
        drop(network);
        assert_eq!(
            std::fs::read("/mnt/networks".to_owned() + "/" + &NETWORK.to_string() + "/secrets")
                .unwrap(),
            b"before"
        );
    });
}

#[test]
fn a_folder_of_another_user_is_refused() {
    isolated(|| {
        let root = small_disk("1m");
        drop(Store::open(root).unwrap());
        sh("chown 12345 /mnt");
        let error = Store::open(root).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { owner: 12345, .. }), "{error:?}");
    });
}
