//! Full memtables, batches larger than one, keys and values at their limits.

use lsmstore::{Batch, BatchError, LogChoice, MAX_KEY_BYTES, WriteError};

use crate::fixture::{Fixture, get, puts};

#[tokio::test]
async fn when_too_many_memtables_wait_writes_are_refused_until_a_flush() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config().memtable_bytes(4096).max_frozen(2), LogChoice::Nobody).await;
    let value = "v".repeat(1000);
    let mut written = 0;
    let frozen = loop {
        match store.apply(&puts(&[(&format!("k{written}"), &value)])) {
            Ok(_) => written += 1,
            Err(WriteError::Full { frozen }) => break frozen,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(frozen, 2);
    assert!(written >= 6, "{written}");
    let last = store.last_sequence();
    assert_eq!(last, written, "a refused batch takes no number");
    store.flush().await.unwrap();
    store.apply(&puts(&[("after", "x")])).unwrap();
    for n in 0..written {
        assert_eq!(get(&store, &format!("k{n}")).as_deref(), Some(&value[..]));
    }
}

#[tokio::test]
async fn a_batch_larger_than_a_memtable_gets_one_of_its_own() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config().memtable_bytes(4096), LogChoice::Nobody).await;
    store.apply(&puts(&[("before", "x")])).unwrap();
    let large = vec![7; 3 << 20];
    let mut batch = Batch::new();
    batch.put(b"large", &large).put(b"beside", b"y");
    store.apply(&batch).unwrap();
    store.apply(&puts(&[("after", "z")])).unwrap();
    for _ in 0..2 {
        let view = store.view().unwrap();
        assert_eq!(view.get(b"large", view.read_sequence()).unwrap(), Some(&large[..]));
        assert_eq!(get(&store, "before").as_deref(), Some("x"));
        assert_eq!(get(&store, "beside").as_deref(), Some("y"));
        assert_eq!(get(&store, "after").as_deref(), Some("z"));
        store.flush().await.unwrap();
    }
}

#[tokio::test]
async fn keys_at_the_limit_are_kept_and_beyond_it_refused() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let key = vec![b'k'; MAX_KEY_BYTES];
    let mut batch = Batch::new();
    batch.put(&key, b"long").put(b"", b"empty");
    store.apply(&batch).unwrap();
    let mut wrong = Batch::new();
    wrong.put(&vec![b'k'; MAX_KEY_BYTES + 1], b"x");
    let refused = store.apply(&wrong);
    assert!(matches!(refused, Err(WriteError::Batch(BatchError::KeyTooLarge { .. }))), "{refused:?}");
    store.flush().await.unwrap();
    drop(store);
    let store = fixture.open().await;
    let view = store.view().unwrap();
    assert_eq!(view.get(&key, view.read_sequence()).unwrap(), Some(&b"long"[..]));
    assert_eq!(view.get(b"", view.read_sequence()).unwrap(), Some(&b"empty"[..]));
    assert_eq!(get(&store, "k"), None);
}

#[tokio::test]
async fn an_empty_batch_takes_no_number() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let applied = store.apply(&Batch::new()).unwrap();
    assert!(applied.last < applied.first);
    assert_eq!(store.last_sequence(), 0);
}

#[tokio::test]
async fn a_compare_and_set_sees_the_newest_state_and_loses_no_race() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let add = |store: &lsmstore::Store| {
        let mut added = 0;
        while added < 200 {
            let view = store.view().unwrap();
            let old = view.get(b"n", view.read_sequence()).unwrap().map(<[u8]>::to_vec);
            let number = old.as_deref().map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
            let mut batch = Batch::new();
            batch.put(b"n", &(number + 1).to_le_bytes());
            let unchanged = |view: &lsmstore::View| view.get(b"n", view.read_sequence()).unwrap() == old.as_deref();
            added += u64::from(store.apply_if(unchanged, &batch).unwrap().is_some());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| add(&store));
        }
    });
    let view = store.view().unwrap();
    assert_eq!(view.get(b"n", view.read_sequence()).unwrap(), Some(&600_u64.to_le_bytes()[..]));
}
