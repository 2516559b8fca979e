//! Records of background jobs: what they did, what failed, what was given up, and how many are kept.

use std::sync::Arc;
use std::time::Duration;

use lsmstore::{FlushOptions, GcOptions, JobKind, JobRecord, JobState, KeepAll, LogChoice, MergePolicy, Store};

use crate::fixture::{Fault, Fixture, puts};

fn newest(store: &Store) -> JobRecord {
    store.jobs().pop().unwrap()
}

#[tokio::test]
async fn a_job_that_did_something_is_on_record_and_one_that_found_nothing_is_not() {
    let fixture = Fixture::new();
    let config = fixture.config().keep_manifests(1).keep_for(Duration::ZERO).quarantine(Duration::ZERO);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    assert_eq!(store.jobs(), Vec::new());
    store.apply(&puts(&[("a", "1")])).unwrap();
    store.flush().await.unwrap();
    store.flush().await.unwrap();
    store.merge(Arc::new(KeepAll)).await.unwrap();
    while store.collect_garbage(GcOptions::default()).await.unwrap().deleted.is_empty() {}
    let jobs = store.jobs();
    let kinds: Vec<JobKind> = jobs.iter().map(|job| job.kind).collect();
    let expected = [JobKind::Flush, JobKind::Publication, JobKind::Merge, JobKind::Publication, JobKind::Garbage];
    assert_eq!(kinds, expected);
    assert!(jobs.iter().all(|job| job.state == JobState::Done && job.error.is_none()), "{jobs:#?}");
    assert!(jobs.is_sorted_by(|one, two| one.id < two.id));
    assert!(jobs[0].bytes > 0 && jobs[1].bytes > 0, "{jobs:#?}");
    assert_eq!((jobs[0].level, jobs[2].level), (Some(0), Some(1)));
    assert!(jobs.iter().all(|job| job.asked <= job.began.unwrap() && job.began <= job.ended));
    assert_eq!(newest(&store), jobs[4]);
}

#[tokio::test]
async fn a_job_that_failed_says_why_and_is_followed_by_another_one() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.apply(&puts(&[("a", "1")])).unwrap();
    fixture.objects.fail("/sst/", Fault::Before, 1);
    store.flush().await.unwrap_err();
    let failed = newest(&store);
    assert_eq!((failed.kind, failed.state), (JobKind::Publication, JobState::Failed));
    assert!(failed.error.as_ref().is_some_and(|error| error.contains("the object store is down")), "{failed:?}");
    store.publish().await.unwrap();
    assert_eq!(newest(&store).state, JobState::Done);
    assert!(newest(&store).id > failed.id);
}

/// A policy whose owner does not want its merges to go on.
struct NoMore;

impl MergePolicy for NoMore {
    fn goes_on(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_merge_that_is_not_to_go_on_was_given_up() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config(), LogChoice::Nobody).await;
    for value in ["1", "2"] {
        store.apply(&puts(&[("a", value)])).unwrap();
        store.flush().await.unwrap();
    }
    assert_eq!(store.merge_local(Arc::new(NoMore)).await.unwrap().inputs, 0);
    assert_eq!((newest(&store).kind, newest(&store).state), (JobKind::Merge, JobState::GivenUp));
}

#[tokio::test]
async fn a_job_that_panics_failed() {
    struct Panics;
    impl MergePolicy for Panics {
        fn goes_on(&self) -> bool {
            panic!("a policy's own mistake")
        }
    }
    let fixture = Fixture::new();
    let store = fixture.open().await;
    for value in ["1", "2"] {
        store.apply(&puts(&[("a", value)])).unwrap();
        store.flush().await.unwrap();
    }
    store.merge_local(Arc::new(Panics)).await.unwrap_err();
    let failed = newest(&store);
    assert_eq!((failed.kind, failed.state), (JobKind::Merge, JobState::Failed));
    assert!(failed.error.is_some() && failed.ended.is_some(), "{failed:?}");
}

#[tokio::test]
async fn a_job_that_a_closed_store_refuses_was_given_up() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.clone().close().await.unwrap();
    store.flush_local(FlushOptions::default()).await.unwrap_err();
    store.publish().await.unwrap_err();
    store.merge_local(Arc::new(KeepAll)).await.unwrap_err();
    store.collect_garbage(GcOptions::default()).await.unwrap_err();
    let jobs = store.jobs();
    assert_eq!(jobs.len(), 4, "{jobs:#?}");
    assert!(jobs.iter().all(|job| job.state == JobState::GivenUp && job.began.is_none()), "{jobs:#?}");
}

#[tokio::test]
async fn the_latest_hundred_and_some_are_kept() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    for _ in 0..100 {
        store.apply(&puts(&[("a", "1")])).unwrap();
        store.flush().await.unwrap();
    }
    let jobs = store.jobs();
    assert_eq!(jobs.len(), 128);
    assert_eq!(jobs.last().map(|job| job.id), Some(200));
}
