//! The protocol of writers and garbage collection, tried in every order of its steps up to a bound; and each rule left out,
//! to see that the model finds what it prevents.

mod log;
mod model;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use model::{Bounds, RULES, Rules, start};

/// Goes through all states that can be reached. The shortest way to one that is wrong, if there is any, and how many there
/// were.
fn explore_from<S: Clone + Eq + Hash>(
    start: S,
    next_of: impl Fn(&S) -> Vec<(&'static str, S)>,
    wrong: impl Fn(&S) -> Option<&'static str>,
) -> Explored {
    let mut seen: HashMap<S, usize> = HashMap::new();
    let mut came: Vec<(usize, &'static str)> = vec![(0, "start")];
    seen.insert(start.clone(), 0);
    let mut now = vec![(0, start)];
    while !now.is_empty() {
        let mut next = Vec::new();
        for (from, state) in now {
            if let Some(wrong) = wrong(&state) {
                let mut way = Vec::new();
                let mut at = from;
                while at != 0 {
                    way.push(came[at].1);
                    at = came[at].0;
                }
                way.reverse();
                return (Some((wrong, way)), came.len());
            }
            for (step, to) in next_of(&state) {
                if let Entry::Vacant(free) = seen.entry(to) {
                    let id = came.len();
                    came.push((from, step));
                    next.push((id, free.key().clone()));
                    free.insert(id);
                }
            }
        }
        now = next;
    }
    (None, came.len())
}

type Explored = (Option<(&'static str, Vec<&'static str>)>, usize);

fn explore(rules: Rules, bounds: Bounds) -> Explored {
    explore_from(start(&bounds), |state| state.next(&rules), |state| state.wrong())
}

const WRITERS: Bounds = Bounds { flushes: [2, 1], passes: [1, 2], checkpoint: false, reader: false };
const LAGGARD: Bounds = Bounds { flushes: [2, 1], passes: [2, 0], checkpoint: false, reader: false };
const COLLECTORS: Bounds = Bounds { flushes: [1, 1], passes: [2, 2], checkpoint: false, reader: false };
const CHECKPOINT: Bounds = Bounds { flushes: [2, 0], passes: [3, 0], checkpoint: true, reader: false };
const TAKEOVER: Bounds = Bounds { flushes: [1, 1], passes: [0, 2], checkpoint: true, reader: false };
const READER: Bounds = Bounds { flushes: [2, 0], passes: [3, 0], checkpoint: false, reader: true };

#[test]
fn with_all_rules_nothing_goes_wrong_in_any_order() {
    for bounds in [WRITERS, LAGGARD, COLLECTORS, CHECKPOINT, TAKEOVER, READER] {
        let (wrong, states) = explore(RULES, bounds);
        assert_eq!(wrong, None, "{bounds:?}");
        assert!(states > 1000, "{states} states with {bounds:?}");
    }
}

#[test]
#[ignore = "takes a minute and gigabytes: for changes of the protocol"]
fn with_all_rules_nothing_goes_wrong_among_all_of_them() {
    let all = Bounds { flushes: [1, 1], passes: [1, 2], checkpoint: true, reader: true };
    assert_eq!(explore(RULES, all).0, None);
}

/// What goes wrong without a rule.
fn without(rules: Rules, bounds: Bounds) -> &'static str {
    found(explore(rules, bounds), &rules)
}

fn found(explored: Explored, rules: &impl std::fmt::Debug) -> &'static str {
    match explored {
        (Some((wrong, way)), _) => {
            // For people: this is what the rule is good for.
            println!("{wrong}: {way:#?}");
            wrong
        }
        (None, states) => panic!("{rules:?} are enough in {states} states"),
    }
}

fn explore_log(rules: log::Rules) -> Explored {
    explore_from(log::start(), |state| state.next(&rules), |state| state.wrong(&rules))
}

#[test]
fn with_all_rules_of_the_log_no_acknowledged_write_is_lost_in_any_order() {
    let (wrong, states) = explore_log(log::RULES);
    assert_eq!(wrong, None);
    assert!(states > 1000, "{states} states");
}

#[test]
fn each_rule_of_the_log_is_needed() {
    let lost = "an acknowledged write was not replayed";
    for rules in [
        log::Rules { in_order: false, ..log::RULES },
        log::Rules { looks_whose_it_is: false, ..log::RULES },
        log::Rules { fences: false, ..log::RULES },
        log::Rules { fences_stay: false, ..log::RULES },
        log::Rules { publishes: false, ..log::RULES },
    ] {
        assert_eq!(found(explore_log(rules), &rules), lost);
    }
}

#[test]
fn a_writer_that_does_not_look_for_its_fence_acknowledges_what_is_lost() {
    let wrong = without(Rules { looks_for_its_fence: false, ..RULES }, WRITERS);
    assert_eq!(wrong, "an acknowledged write is not in the newest manifest");
}

#[test]
fn a_collection_that_forgets_numbers_lets_a_zombie_acknowledge_what_is_lost() {
    let wrong = without(Rules { fences: false, ..RULES }, WRITERS);
    assert_eq!(wrong, "an acknowledged write is not in the newest manifest");
}

#[test]
fn a_takeover_that_does_not_look_behind_itself_may_be_of_a_number_that_was_free_again() {
    let wrong = without(Rules { lists_behind_its_takeover: false, ..RULES }, LAGGARD);
    assert_eq!(wrong, "a store was opened without an acknowledged write");
}

#[test]
fn a_single_pass_takes_tables_from_readers() {
    let wrong = without(Rules { two_passes: false, ..RULES }, READER);
    assert_eq!(wrong, "a reader does not find what the newest manifest named when it began");
}

#[test]
fn without_the_watermark_a_zombie_deletes_what_the_next_writer_is_about_to_name() {
    let careless = Rules { two_passes: false, lists_again: false, ..RULES };
    assert_eq!(explore(careless, COLLECTORS).0, None, "the watermark alone is enough for that");
    let wrong = without(Rules { watermark: false, ..careless }, COLLECTORS);
    assert_eq!(wrong, "the newest manifest names a table that is gone");
}

#[test]
fn a_checkpoint_is_lost_if_either_side_does_not_look_for_the_other() {
    let lost = "what a checkpoint holds is gone";
    assert_eq!(without(Rules { looks_for_the_boundary: false, ..RULES }, CHECKPOINT), lost);
    assert_eq!(without(Rules { boundary_before_checkpoints: false, ..RULES }, CHECKPOINT), lost);
    assert_eq!(without(Rules { spares_checkpoints: false, ..RULES }, CHECKPOINT), lost);
}
