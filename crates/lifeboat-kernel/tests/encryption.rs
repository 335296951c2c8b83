//! Keys, policies and locked directories of a real ext4 file system with encryption. Needs root and loop devices.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lifeboat_faults::keys::take_away;
use lifeboat_faults::sandbox;
use lifeboat_faults::volume::{Layout, Volume};
use lifeboat_kernel::at_rest::{nearest, readable};
use lifeboat_kernel::encryption::{Missing, standing};
use lifeboat_kernel::{AtRest, AtRestError, MasterKey, Standing};

const WITH_ENCRYPTION: Layout = Layout {
    mkfs: &["-O", "encrypt"],
    mount: "",
};

fn key(seed: u8) -> MasterKey {
    let bytes: [u8; 64] = core::array::from_fn(|n| seed ^ u8::try_from(n * 3).unwrap());
    MasterKey::parse(&bytes).unwrap()
}

fn at_rest(seed: u8) -> AtRest {
    AtRest::with(key(seed), None)
}

/// The identifier that an encrypted directory names.
fn identifier(dir: &Path) -> String {
    match standing(dir).unwrap() {
        Standing::Open(id) | Standing::Locked(id) => id.to_string(),
        other => panic!("{} is {other:?}", dir.display()),
    }
}

fn world(base: &Path) -> (Volume, PathBuf) {
    let volume = Volume::create(&base.join("fs"), &base.join("below"), 64, WITH_ENCRYPTION).unwrap();
    let dir = volume.dir().to_owned();
    (volume, dir)
}

#[test]
fn a_directory_is_encrypted_locked_and_opened_again() {
    sandbox::run("a_directory_is_encrypted_locked_and_opened_again", || {
        let base = tempfile::tempdir().unwrap();
        let (mut volume, root) = world(base.path());
        let (dir, keys) = (root.join("vm"), at_rest(1));
        assert_eq!(standing(&root).unwrap(), Standing::Plain);
        keys.make(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(standing(&dir).unwrap(), Standing::Open(_)));
        std::fs::create_dir(dir.join("logs")).unwrap();
        std::fs::write(dir.join("logs/log"), b"content").unwrap();
        // Repeated, it takes what is there.
        keys.make(&dir).unwrap();
        let wants = identifier(&dir);

        // Files that are open stay readable; everything else is locked at once, below directories that are in use too.
        let open = std::fs::File::open(dir.join("logs/log")).unwrap();
        assert!(take_away(&root, &wants).unwrap(), "a file is open");
        assert!(matches!(standing(&dir).unwrap(), Standing::Locked(_)));
        assert!(matches!(
            readable(&dir.join("logs/log")),
            Err(AtRestError::Locked { .. })
        ));
        drop(open);
        assert!(!take_away(&root, &wants).unwrap());
        assert!(
            !dir.join("logs/log").exists(),
            "the kernel says that it is not there"
        );
        let (seen, how) = nearest(&dir.join("logs/log")).unwrap();
        assert_eq!((seen, matches!(how, Standing::Locked(_))), (dir.clone(), true));
        assert!(std::fs::write(dir.join("new"), b"").is_err());
        let locked = AtRest::off().unlock(&dir.join("logs")).unwrap_err();
        assert!(
            locked.is_locked() && locked.to_string().contains(&wants),
            "{locked}"
        );
        readable(&root).unwrap();

        // Mounted anew: the key is not on the medium.
        volume.unmount().unwrap();
        volume.mount().unwrap();
        let other = at_rest(2).unlock(&dir).unwrap_err().to_string();
        let have = {
            at_rest(2).make(&root.join("other")).unwrap();
            identifier(&root.join("other"))
        };
        for named in [&wants, &have, &dir.display().to_string()] {
            assert!(other.contains(named.as_str()), "{other}\nshould name {named}");
        }
        assert!(matches!(
            keys.unlock(&dir.join("logs/log")).unwrap(),
            Standing::Open(_)
        ));
        assert_eq!(std::fs::read(dir.join("logs/log")).unwrap(), b"content");
        assert!(matches!(at_rest(2).make(&dir), Err(AtRestError::OtherKey { .. })));
        // Open, it needs no key of ours.
        assert!(matches!(AtRest::off().unlock(&dir).unwrap(), Standing::Open(_)));
    });
}

#[test]
fn only_empty_directories_become_encrypted() {
    sandbox::run("only_empty_directories_become_encrypted", || {
        let base = tempfile::tempdir().unwrap();
        let (_volume, root) = world(base.path());
        // What is left when the power goes between the two.
        let (empty, full) = (root.join("empty"), root.join("full"));
        std::fs::create_dir(&empty).unwrap();
        at_rest(1).make(&empty).unwrap();
        assert!(matches!(standing(&empty).unwrap(), Standing::Open(_)));

        std::fs::create_dir(&full).unwrap();
        std::fs::write(full.join("file"), b"x").unwrap();
        let refused = at_rest(1).make(&full).unwrap_err();
        assert!(matches!(refused, AtRestError::NotEmpty { .. }), "{refused}");
        assert_eq!(std::fs::read(full.join("file")).unwrap(), b"x");
        assert_eq!(
            at_rest(1).unlock(&full).unwrap(),
            Standing::Plain,
            "it is as it was"
        );
        // The root directory of a file system has lost+found in it.
        assert!(at_rest(1).make(&root).is_err());

        AtRest::off().make(&root.join("off")).unwrap();
        assert!(!root.join("off").exists());
    });
}

#[test]
fn a_key_beside_what_it_encrypts_is_refused() {
    sandbox::run("a_key_beside_what_it_encrypts_is_refused", || {
        let base = tempfile::tempdir().unwrap();
        let (_volume, root) = world(base.path());
        let device = std::fs::metadata(&root).unwrap().dev();
        let keys = AtRest::with(key(1), Some(device));
        for refused in [keys.make(&root.join("vm")), keys.fits(&root.join("vm"))] {
            assert!(
                matches!(refused, Err(AtRestError::KeyBeside { .. })),
                "{refused:?}"
            );
        }
        AtRest::with(key(1), Some(device + 1))
            .make(&root.join("vm"))
            .unwrap();
        assert!(matches!(
            keys.unlock(&root.join("vm")),
            Err(AtRestError::KeyBeside { .. })
        ));
    });
}

#[test]
fn file_systems_without_encryption_say_the_way_out() {
    sandbox::run("file_systems_without_encryption_say_the_way_out", || {
        let base = tempfile::tempdir().unwrap();
        let plain = Layout {
            mkfs: &["-O", "^encrypt"],
            mount: "",
        };
        let volume = Volume::create(&base.path().join("fs"), &base.path().join("below"), 64, plain).unwrap();
        let ext4 = volume.dir().join("vm");
        let refused = at_rest(1).make(&ext4).unwrap_err().to_string();
        assert!(refused.contains("tune2fs -O encrypt DEVICE"), "{refused}");
        assert_eq!(standing(&ext4).unwrap(), Standing::Unsupported(Missing::Feature));
        assert!(
            at_rest(1)
                .fits(&ext4)
                .unwrap_err()
                .to_string()
                .contains("tune2fs")
        );
        // A directory that is not encrypted needs no key.
        assert_eq!(
            at_rest(1).unlock(&ext4).unwrap(),
            Standing::Unsupported(Missing::Feature)
        );

        let device = base.path().join("ram");
        std::fs::create_dir(&device).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "none"]).arg(&device);
        lifeboat_faults::volume::run(&mut mount).unwrap();
        let refused = at_rest(1).make(&device.join("vm")).unwrap_err().to_string();
        assert!(refused.contains("dm-crypt"), "{refused}");
        assert!(
            at_rest(1)
                .fits(&device)
                .unwrap_err()
                .to_string()
                .contains("dm-crypt")
        );
    });
}
