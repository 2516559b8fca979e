//! A reader in another process: this test binary once more, with the socket in its environment.

use kriya_engine::{PollWait, Session};

use crate::cluster::Cluster;

const SOCKET: &str = "KRIYA_TEST_SOCKET";

/// Not a test of its own: what the other process does.
#[test]
fn the_other_process() {
    let Ok(socket) = std::env::var(SOCKET) else { return };
    let mut session = Session::connect(socket.as_ref(), std::process::id(), &mut PollWait).unwrap();
    let view = session.view(&mut PollWait).unwrap();
    let sequence = view.read_sequence();
    for tid in 0..1000u64 {
        let row = view.get(&kriya_engine::keys::row(1, tid), sequence).unwrap();
        assert_eq!(row, Some(&tid.to_le_bytes()[..]));
    }
    println!("all rows were read");
}

#[test]
fn another_process_reads_rows_in_memory_and_in_tables() {
    let cluster = Cluster::new();
    let mut a = cluster.connect();
    for tid in 0..1000u64 {
        a.put_row(1, tid, &tid.to_le_bytes());
        if tid == 500 {
            a.flush();
        }
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::the_other_process", "--nocapture"])
        .env(SOCKET, cluster.socket())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("all rows were read"), "{text}");
}
