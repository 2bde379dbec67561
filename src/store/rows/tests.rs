//! Which rows are the content of a sound store.

use std::time::SystemTime;

use super::*;
use crate::resume::{KeyRange, Proof, Revision, Selection};

const INSTANCE: Instance = Instance(7);

/// The rows of a tree, as groups leave them.
#[derive(Clone, Default)]
struct Tree(BTreeMap<Vec<u8>, Vec<u8>>);

impl Tree {
    fn apply(&mut self, group: &Group) {
        for (key, value) in group.rows.clone() {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }

    fn verify(&self, answered: Commit) -> Result<Contents, Unsound> {
        let rows: Vec<Row> = self.0.clone().into_iter().collect();
        Contents::verify(INSTANCE, answered, &rows)
    }

    fn key_of(&self, number: usize) -> Vec<u8> {
        self.0.keys().nth(number).unwrap().clone()
    }
}

fn put(name: &str, checkpoint: i64, key_bytes: usize) -> Change {
    let client_id = ClientId::parse(name).unwrap();
    let mut record = Record::new(Selection {
        range: KeyRange::prefix(vec![b'k'; key_bytes].into()),
        no_put: false,
        no_delete: false,
    });
    record.checkpoint = Revision::new(checkpoint);
    record.proof = Proof::Acked;
    let bytes = record::encode(&client_id, &record, SystemTime::UNIX_EPOCH).unwrap();
    Change {
        client_id,
        write: Some((record, bytes)),
    }
}

fn remove(name: &str) -> Change {
    Change {
        client_id: ClientId::parse(name).unwrap(),
        write: None,
    }
}

/// What each group left behind, the newest last.
fn history(groups: Vec<Vec<Change>>) -> Vec<(Tree, Contents)> {
    let mut tree = Tree::default();
    let mut contents = Contents::empty(INSTANCE);
    let step = |changes| {
        let group = contents.group(changes);
        tree.apply(&group);
        contents.accept(group);
        (tree.clone(), contents.clone())
    };
    groups.into_iter().map(step).collect()
}

fn past() -> Vec<(Tree, Contents)> {
    history(vec![
        vec![put("a", 1, 9), put("b", 1, 9)],
        vec![put("a", 2, 9)],
        vec![put("c", 3, 5000)],
        vec![put("c", 4, 900), put("a", 3, 9), put("a", 4, 9)],
        vec![remove("b"), remove("nobody")],
        vec![put("a", 5, 9)],
        vec![],
    ])
}

fn is_corrupt(result: Result<Contents, Unsound>) -> bool {
    matches!(result, Err(Unsound::Corrupt(_)))
}

#[test]
fn what_groups_left_verifies_as_exactly_that() {
    for (step, (tree, expected)) in past().into_iter().enumerate() {
        let found = tree.verify(expected.commit()).unwrap();
        assert_eq!(found.commit(), expected.commit(), "step {step}");
        assert_eq!(found.client_ids(), expected.client_ids(), "step {step}");
        for id in found.client_ids() {
            assert_eq!(found.record(&id), expected.record(&id), "step {step}");
        }
    }
}

#[test]
fn a_tree_may_be_ahead_of_the_witness_but_never_behind() {
    let past = past();
    for (held, (tree, _)) in past.iter().enumerate() {
        for (answered, (_, contents)) in past.iter().enumerate() {
            let verified = tree.verify(contents.commit());
            assert_eq!(verified.is_ok(), answered <= held, "{answered} {held}");
        }
    }
}

#[test]
fn a_group_of_one_row_is_one_row_and_no_batch() {
    let contents = Contents::empty(INSTANCE);
    assert_eq!(contents.group([put("a", 1, 9)]).rows.len(), 1);
    assert_eq!(
        contents.group([put("a", 1, 9), put("a", 2, 9)]).rows.len(),
        1
    );
    assert_eq!(
        contents.group([put("a", 1, 9), put("b", 1, 9)]).rows.len(),
        3
    );
}

/// Unless it is a commit that stood alone and was superseded by an embedded one.
fn assert_noticed(
    key: &[u8],
    what: &str,
    verified: Result<Contents, Unsound>,
    expected: &Contents,
) {
    match verified {
        Ok(found) => assert_eq!((key, found.commit()), (COMMIT_KEY, expected.commit())),
        unsound => assert!(is_corrupt(unsound), "{key:?} {what}"),
    }
}

#[test]
fn any_row_that_is_old_gone_or_new_is_noticed() {
    let past = past();
    for (step, (tree, contents)) in past.iter().enumerate() {
        for number in 0..tree.0.len() {
            let key = tree.key_of(number);
            let mut damaged = tree.clone();
            damaged.0.remove(&key);
            assert_noticed(&key, "gone", damaged.verify(contents.commit()), contents);
            for (other, _) in &past[..step] {
                if let Some(value) = other.0.get(&key).filter(|it| **it != tree.0[&key]) {
                    let mut damaged = tree.clone();
                    damaged.0.insert(key.clone(), value.clone());
                    let verified = damaged.verify(contents.commit());
                    assert_noticed(&key, "old", verified, contents);
                }
            }
        }
        for key in [&b"x"[..], b"commits", &[0; 18], &[9; 40]] {
            let mut damaged = tree.clone();
            damaged.0.insert(key.to_vec(), vec![0]);
            assert!(is_corrupt(damaged.verify(contents.commit())), "{key:?} new");
        }
    }
}

/// Even where sled's own checksums see nothing.
#[test]
fn a_bit_of_a_row_is_noticed() {
    let (tree, contents) = past().pop().unwrap();
    for (key, value) in &tree.0 {
        let embedded = usize::from(value[0]);
        for at in 0..value.len() {
            let mut damaged = tree.clone();
            damaged.0.get_mut(key).unwrap()[at] ^= 4;
            let verified = damaged.verify(contents.commit());
            // A superseded commit inside a row says nothing any more.
            let is_superseded = key != COMMIT_KEY && at <= embedded;
            if let Ok(found) = &verified {
                assert!(is_superseded, "{key:?} byte {at}");
                assert_eq!(found.commit(), contents.commit());
            }
        }
    }
}

#[test]
fn an_empty_tree_is_fresh_only_if_nothing_was_answered() {
    let empty = Tree::default();
    assert!(empty.verify(Commit::default()).is_ok());
    let (_, contents) = past().remove(0);
    assert!(is_corrupt(empty.verify(contents.commit())));
}

#[test]
fn records_of_another_store_are_noticed() {
    let (tree, contents) = past().pop().unwrap();
    let rows: Vec<Row> = tree.0.into_iter().collect();
    let verified = Contents::verify(Instance(8), contents.commit(), &rows);
    assert!(is_corrupt(verified));
}

#[test]
fn a_commit_of_a_newer_version_is_told_apart_from_damage() {
    let (mut tree, contents) = past().pop().unwrap();
    let newer = StoredCommit {
        version: 2,
        ..StoredCommit::default()
    };
    let value = row_value(&newer.encode_to_vec(), &[]);
    tree.0.insert(COMMIT_KEY.to_vec(), value);
    let verified = tree.verify(contents.commit());
    assert!(matches!(verified, Err(Unsound::Newer(2))));
}
