//! Sessions that send nonsense lose their connection; nobody else notices.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kriya_engine::PollWait;

use crate::cluster::{Cluster, eventually};

/// The greeting of a proper session, as a frame.
fn hello() -> Vec<u8> {
    let mut frame = 21u32.to_le_bytes().to_vec();
    frame.push(1);
    frame.extend_from_slice(b"KRIYA\0\0\0");
    for word in [kriya_engine::PROTOCOL_VERSION, kriya_engine::LAYOUT_VERSION, 1] {
        frame.extend_from_slice(&word.to_le_bytes());
    }
    frame
}

fn closed(mut stream: UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok() || rest.is_empty()
}

#[test]
fn nonsense_closes_only_the_session_that_sent_it() {
    let cluster = Cluster::new();
    let mut good = cluster.connect();
    good.put_row(1, 1, b"row");
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut noise = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    };
    for attempt in 0..60usize {
        let mut stream = UnixStream::connect(cluster.socket()).unwrap();
        if attempt % 3 > 0 {
            stream.write_all(&hello()).unwrap();
        }
        let mut frame: Vec<u8> = match attempt % 4 {
            0 => vec![255; 5],
            1 => vec![0; 5],
            2 => [&40u32.to_le_bytes()[..], &[2]].concat(),
            _ => [&40u32.to_le_bytes()[..], &[9]].concat(),
        };
        frame.extend((0..39).map(|_| noise()));
        // The other end may have hung up already.
        let _ = stream.write_all(&frame);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(closed(stream), "attempt {attempt}");
        assert!(good.get_row(1, 1).is_some());
        assert!(good.session.status(&mut PollWait).is_ok());
    }
    eventually("only one session is left", || good.session.status(&mut PollWait).unwrap().sessions == 1);
}

#[test]
fn a_session_of_another_build_is_told_to_restart_the_server() {
    let cluster = Cluster::new();
    drop(cluster.connect());
    let mut stream = UnixStream::connect(cluster.socket()).unwrap();
    let mut frame = hello();
    frame[13] = 99;
    stream.write_all(&frame).unwrap();
    assert!(closed(stream));
    let error = kriya_engine::ClientError::OtherVersion { mine: (1, 1), worker: (2, 1) };
    assert!(error.to_string().contains("restart the server"));
}

#[test]
fn a_session_that_ends_gives_its_slot_back() {
    let cluster = Cluster::new();
    for _ in 0..50 {
        let mut backend = cluster.connect();
        assert_eq!(backend.get_row(1, 1), None);
    }
    let mut last = cluster.connect();
    eventually("the others are gone", || last.session.status(&mut PollWait).unwrap().sessions == 1);
}
