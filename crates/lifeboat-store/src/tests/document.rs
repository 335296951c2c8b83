//! The written recovery procedure, executed: the fenced commands of the page, on a real replica, with the program gone.

use std::process::Command;

use camino::Utf8Path;
use lifeboat_engine::ports::store::{ImageStore, Origin};

use super::lifecycle::{adopted, adoption, promote, with_images};
use super::world::World;

const PAGE: &str = include_str!("../../../../docs/recovery-without-lifeboat.md");

/// The fenced shell commands, in order, as one script.
fn commands() -> String {
    let mut script = String::from("set -eu\n");
    let mut inside = false;
    for line in PAGE.lines() {
        match (line, inside) {
            ("```sh", false) => inside = true,
            ("```", true) => inside = false,
            (line, true) => {
                script.push_str(line);
                script.push('\n');
            }
            (_, false) => {}
        }
    }
    assert!(!inside && script.lines().count() > 8, "{script}");
    script
}

#[tokio::test]
async fn a_person_with_qemu_img_gets_every_point_back() {
    let mut w = World::new(90).await;
    w.bulk().await;
    w.rounds(4).await;
    w.store.expire_oldest(w.vm).await.unwrap();
    w.points.remove(0);
    w.receive().await;
    w.apply_all().await;
    w.store.close(w.vm).await;
    for (id, position) in w.points.clone() {
        let listed: Vec<_> = w.points.iter().map(|p| p.0.to_string()).collect();
        for (disk, file) in w.point_files(id) {
            let relative = file.strip_prefix(w.dir()).unwrap();
            let said = rescue(&w, relative, &w.at[&position][&disk]);
            for listed in listed.iter().map(String::as_str).chain([relative.as_str()]) {
                assert!(said.contains(listed), "{listed} is not listed:\n{said}");
            }
            assert!(said.contains("2023"), "the instants are dates:\n{said}");
        }
    }
    w.reopen().await;
    w.check().await;
}

/// Follows the page for one image and returns what it showed.
fn rescue(w: &World, relative: &Utf8Path, model: &[u8]) -> String {
    let out = w.root.join("rescued").join(relative);
    let script = Command::new("sh")
        .args(["-c", &commands()])
        .current_dir(w.dir())
        .env("POINT_FILE", relative)
        .env("OUT", &out)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&script.stdout).into_owned();
    let errors = String::from_utf8_lossy(&script.stderr);
    assert!(script.status.success(), "{said}{errors}");
    w.compare(out.join("copy.qcow2").as_str(), model);
    w.compare(out.join("overlay.qcow2").as_str(), model);
    std::fs::remove_dir_all(&out).unwrap();
    said
}

#[tokio::test]
async fn a_person_gets_back_what_stands_on_images_of_the_host_and_what_is_kept() {
    let (mut w, own) = with_images(91).await;
    let a = adoption(&mut w, Origin::Images(own.images.clone()), true, true);
    w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
    adopted(&mut w, &a, &own.content);
    w.rounds(2).await;
    for (id, position) in w.points.clone() {
        for (disk, file) in w.point_files(id) {
            rescue(&w, file.strip_prefix(w.dir()).unwrap(), &w.at[&position][&disk]);
        }
    }
    let origin = promote(&mut w, false).await;
    let content = w.now.clone();
    let b = adoption(&mut w, origin, false, true);
    w.store.adopt(&w.root.clone().into(), w.vm, &b).await.unwrap();
    w.branches.clear();
    adopted(&mut w, &b, &content);
    w.rounds(2).await;
    w.store.close(w.vm).await;
    let text = std::fs::read_to_string(w.dir().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let levels = usize::try_from(manifest["kept"]["levels"].as_u64().unwrap()).unwrap();
    let layers = manifest["points"][levels - 1]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), content.len());
    for layer in layers {
        let file = layer["file"].as_str().unwrap();
        let disk = super::world::disk(layer["disk"].as_str().unwrap());
        let said = rescue(&w, file.into(), &content[&disk]);
        assert!(
            said.contains(r#""levels""#) && said.contains(r#""loose": true"#),
            "{said}"
        );
    }
}
