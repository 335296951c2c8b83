//! The written recovery procedure, executed: the fenced commands of the page, on a real replica, with the program gone.

use std::process::Command;

use lifeboat_engine::ports::store::ReplicaStore;

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
        let model = w.at[&position].clone();
        for (disk, file) in w.point_files(id) {
            let out = w.root.join(format!("rescued-{id}-{disk}"));
            let relative = file.strip_prefix(w.dir()).unwrap();
            let script = Command::new("sh")
                .args(["-c", &commands()])
                .current_dir(w.dir())
                .env("POINT_FILE", relative)
                .env("OUT", &out)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&script.stdout);
            assert!(
                script.status.success(),
                "{said}{}",
                String::from_utf8_lossy(&script.stderr)
            );
            for listed in w
                .points
                .iter()
                .map(|p| p.0.to_string())
                .chain([relative.to_string()])
            {
                assert!(said.contains(&listed), "{listed} is not listed:\n{said}");
            }
            assert!(said.contains("2023"), "the instants are dates:\n{said}");
            w.compare(out.join("copy.qcow2").as_str(), &model[&disk]);
            w.compare(out.join("overlay.qcow2").as_str(), &model[&disk]);
        }
    }
    w.reopen().await;
    w.check().await;
}
