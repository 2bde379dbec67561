//! Stands for the application's own work: a durable copy of the range, as of one revision.

use std::{collections::BTreeMap, fs, io};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{Event, KeyValue, event::EventType};

#[derive(Default, Serialize, Deserialize)]
pub struct LocalCopy {
    #[serde(skip)]
    file: String,
    /// 0: there is nothing yet.
    pub revision: i64,
    pairs: BTreeMap<String, String>,
}

impl LocalCopy {
    pub fn load(file: String) -> Result<Self> {
        match fs::read(&file) {
            Ok(json) => Ok(Self { file, ..serde_json::from_slice(&json)? }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { file, ..Self::default() }),
            Err(error) => Err(error.into()),
        }
    }

    /// By a snapshot: what is not in it no longer exists.
    pub fn replace(&mut self, revision: i64, kvs: Vec<KeyValue>) {
        println!("SNAPSHOT {}", kvs.len());
        self.revision = revision;
        self.pairs = kvs.into_iter().map(|kv| (text(kv.key), text(kv.value))).collect();
    }

    /// Whole revisions. What is here already comes again when only its ack was lost.
    pub fn apply(&mut self, revision: i64, events: Vec<Event>) {
        for event in events {
            let (kind, kv) = (event.r#type(), event.kv.unwrap_or_default());
            if kv.mod_revision <= self.revision {
                continue;
            }
            let key = text(kv.key);
            println!("{} {key}", kind.as_str_name());
            match kind {
                EventType::Put => self.pairs.insert(key, text(kv.value)),
                EventType::Delete => self.pairs.remove(&key),
            };
        }
        self.revision = self.revision.max(revision);
    }

    pub fn save(&self) -> Result<()> {
        let new = format!("{}.new", self.file);
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::File::open(&new)?.sync_all()?;
        Ok(fs::rename(new, &self.file)?)
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
