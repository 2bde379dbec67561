//! A subscriber's life: it opens streams, processes, acknowledges, crashes,
//! comes back; in the end it catches up and leaves.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::{Code, transport::Endpoint};
use watchmark::proto::watchmark::v1::{
    AckMode, CompactionPolicy, SubscribeRequest, subscribe_response::Message,
    watch_service_client::WatchServiceClient,
};

use crate::{
    app::{App, Reading},
    profile::{Profile, What, seconds},
    stage::{Call, OnStage, Stage},
    support::client::{Acker, Ended, Subscriber},
};

/// A stream that does not open by then is given up.
const OPEN_WITHIN: Duration = Duration::from_secs(12);
/// An answer to an ack that does not come by then is lost.
const ACK_WITHIN: Duration = Duration::from_secs(12);
/// A refused ack is not repeated earlier.
const REPEAT_AFTER: Duration = Duration::from_millis(200);
/// Who gets nothing for so long acknowledges what there is: a limit may wait
/// for just that.
const IDLE: Duration = Duration::from_millis(500);
/// How many acks one stream has under way.
const ACKS_ASIDE_MAX: usize = 4;
/// How many client_ids newcomers have.
const NEWCOMERS_MAX: usize = 300;

/// One process of an application.
pub(crate) struct Process {
    stage: Arc<Stage>,
    profile: Profile,
    calls: watch::Receiver<Call>,
    rng: Rng,
    client_id: String,
    app: Arc<Mutex<App>>,
    /// Whether it leaves the end to its twin.
    is_second: bool,
    /// What it processed, if it keeps that itself.
    own_position: i64,
    /// The next stream takes what it gets.
    takes_resync: bool,
}

/// Why a process is done with a stream.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// It is over.
    Over,
    /// Everything was received and acknowledged.
    CaughtUp,
}

impl Process {
    pub(crate) fn new(
        stage: &Arc<Stage>,
        profile: &Profile,
        app: &Arc<Mutex<App>>,
        seed: u64,
        is_second: bool,
    ) -> Self {
        Self {
            stage: Arc::clone(stage),
            calls: stage.calls.subscribe(),
            rng: Rng::with_seed(seed),
            client_id: profile.name.to_owned(),
            app: Arc::clone(app),
            profile: profile.clone(),
            is_second,
            own_position: 0,
            takes_resync: false,
        }
    }

    /// Lives until it caught up at the end.
    pub(crate) async fn live(mut self) {
        let mut lives = 0;
        loop {
            if self.profile.what == What::Newcomer {
                self.client_id = format!("{}-{}", self.profile.name, lives % NEWCOMERS_MAX);
                lives += 1;
            }
            match self.stream().await {
                Some(Left::CaughtUp) => return,
                Some(Left::Over) | None => {}
            }
            if matches!(self.call(), Call::CatchUp { .. }) {
                if self.is_second {
                    return;
                }
                sleep(Duration::from_millis(self.rng.u64(50..300))).await;
            } else {
                let away = Duration::from_millis(self.rng.u64(self.profile.absence.clone()));
                self.unless_called(sleep(away)).await;
            }
        }
    }

    /// One stream, from its beginning to its end. `None`: it did not open.
    async fn stream(&mut self) -> Option<Left> {
        let stage = Arc::clone(&self.stage);
        let gate = stage.epoch.read().await;
        let (epoch, recorder) = (gate.number, gate.recorder.clone());
        let url = &stage.doors[self.rng.usize(..stage.doors.len())];
        let endpoint = Endpoint::from_shared(url.clone())
            .unwrap()
            .http2_keep_alive_interval(Duration::from_secs(4))
            .keep_alive_timeout(Duration::from_secs(6))
            .connect_timeout(Duration::from_secs(3));
        let api = WatchServiceClient::new(endpoint.connect_lazy());
        let opening = Subscriber::open(api, &recorder, self.request());
        let subscriber = match timeout(OPEN_WITHIN, opening).await {
            Ok(Ok(subscriber)) => subscriber,
            Ok(Err(ended)) => {
                self.was_told(&ended);
                return None;
            }
            Err(_) => return None,
        };
        self.takes_resync = false;
        let on_stage = stage.enter(epoch, &self.client_id);
        drop(gate);
        Some(self.read(subscriber, epoch, &on_stage).await)
    }

    fn request(&self) -> SubscribeRequest {
        let mut request = self.profile.request(&self.client_id);
        if self.takes_resync {
            request.on_compaction = CompactionPolicy::Resync.into();
        }
        if self.profile.what == What::OwnPosition {
            request.resume_after = self.own_position;
        }
        request
    }

    fn was_told(&mut self, ended: &Ended) {
        self.takes_resync |= ended.code == Code::OutOfRange || ended.reason == "HISTORY_REPLACED";
        if ended.reason == "HISTORY_REPLACED" {
            self.own_position = 0;
        }
    }

    async fn read(&mut self, mut subscriber: Subscriber, epoch: usize, on_stage: &OnStage) -> Left {
        let acker = subscriber.acker();
        let mut acks = JoinSet::new();
        let mut reading = Reading::default();
        let opened = Message::Opened(*subscriber.opened());
        self.process(epoch, &mut reading, opened);
        let is_auto = self.profile.request("x").ack_mode() == AckMode::Auto;
        let due = self.profile.ack_after.filter(|_| !is_auto);
        let most_acks = if self.profile.acks_aside {
            ACKS_ASIDE_MAX
        } else {
            1
        };
        let mut ack_again_at = Instant::now();
        let mut received_at = Instant::now();
        let mut unacked_events = 0;
        // The newest position to acknowledge.
        let mut to_ack = 0;
        let dies_at = (!self.profile.life.is_empty())
            .then(|| Instant::now() + seconds(&self.profile.life, &mut self.rng));
        loop {
            let call = self.call();
            match call {
                Call::Play => {}
                Call::Replace { common } if reading.position <= common => return Left::Over,
                Call::Replace { .. } => on_stage.stay(),
                Call::CatchUp { .. } if self.is_second => return Left::Over,
                Call::CatchUp { to } if reading.position >= to => {
                    return self.leave(&acker, to_ack).await;
                }
                Call::CatchUp { .. } => {}
            }
            let is_idle = received_at.elapsed() >= IDLE;
            let acks_now = due.is_some_and(|due| unacked_events >= due)
                || (due.is_some() && unacked_events > 0 && is_idle);
            let acks_now = acks_now && acks.len() < most_acks && Instant::now() >= ack_again_at;
            if acks_now {
                unacked_events = 0;
                acks.spawn(acknowledge(Arc::clone(&self.stage), acker.clone(), to_ack));
            }
            // Step by step: nothing is read while an ack is under way.
            let reads = self.profile.acks_aside || acks.is_empty();
            let dies = async {
                match dies_at {
                    Some(at) if call == Call::Play => sleep_until(at).await,
                    _ => pending().await,
                }
            };
            let message = tokio::select! {
                _ = self.calls.changed() => continue,
                () = dies => {
                    self.late_ack(acker, to_ack);
                    return Left::Over;
                }
                () = sleep_until(ack_again_at), if ack_again_at > Instant::now() => continue,
                () = sleep_until(received_at + IDLE), if unacked_events > 0 && !is_idle => continue,
                Some(acked) = acks.join_next() => {
                    // A lost ack is repeated: a limit waits for it.
                    if !matches!(acked.unwrap(), Some(Ok(_))) {
                        unacked_events += due.unwrap_or(1);
                        ack_again_at = Instant::now() + REPEAT_AFTER;
                    }
                    continue;
                }
                message = subscriber.next_unbounded(), if reads => message,
            };
            let message = match message {
                Ok(message) => message,
                Err(ended) => {
                    self.was_told(&ended);
                    self.late_ack(acker, to_ack);
                    return Left::Over;
                }
            };
            if let Some(count) = self.process(epoch, &mut reading, message) {
                received_at = Instant::now();
                unacked_events += count.max(1);
                to_ack = reading.position;
                if self.profile.what == What::OwnPosition {
                    self.own_position = reading.position;
                }
            }
            self.dawdle().await;
        }
    }

    fn process(&self, epoch: usize, reading: &mut Reading, message: Message) -> Option<usize> {
        self.app.lock().unwrap().process(epoch, reading, message)
    }

    /// Everything was received: acknowledges it and leaves.
    async fn leave(&self, acker: &Acker, revision: i64) -> Left {
        if revision == 0 || !self.profile.acknowledges() {
            return Left::CaughtUp;
        }
        loop {
            let ack = acknowledge(Arc::clone(&self.stage), acker.clone(), revision);
            match ack.await {
                Some(Ok(_)) => return Left::CaughtUp,
                // The disk may have been full a moment ago.
                Some(Err(ended)) if ended.reason == "STORE_UNAVAILABLE" => {
                    sleep(REPEAT_AFTER).await;
                }
                _ => return Left::Over,
            }
        }
    }

    /// A process that lost its stream may not have noticed yet, and
    /// acknowledges what it has.
    fn late_ack(&mut self, acker: Acker, revision: i64) {
        if revision == 0 || !self.profile.acknowledges() || self.rng.bool() {
            return;
        }
        let stage = Arc::clone(&self.stage);
        let late_by = Duration::from_millis(self.rng.u64(..1500));
        tokio::spawn(async move {
            sleep(late_by).await;
            acknowledge(stage, acker, revision).await;
        });
    }

    /// What it does with a message, or it sleeps. At the end there is no time.
    async fn dawdle(&mut self) {
        let pace = Duration::from_millis(self.rng.u64(self.profile.pace.clone()));
        let sleeps = self.profile.sleeps > 0 && self.rng.usize(..self.profile.sleeps) == 0;
        let dawdles = if sleeps {
            Duration::from_millis(self.rng.u64(3000..12_000))
        } else {
            pace
        };
        if !dawdles.is_zero() {
            self.unless_called(sleep(dawdles)).await;
        }
    }

    /// Not at all at the end, and only until somebody calls.
    async fn unless_called(&mut self, waiting: impl Future<Output = ()>) {
        if self.call() == Call::Play {
            tokio::select! {
                () = waiting => {}
                _ = self.calls.changed() => {}
            }
        }
    }

    fn call(&self) -> Call {
        *self.calls.borrow()
    }
}

/// `None`: the answer was lost.
async fn acknowledge(stage: Arc<Stage>, acker: Acker, revision: i64) -> Option<Result<i64, Ended>> {
    let answer = timeout(ACK_WITHIN, acker.ack(revision)).await.ok()?;
    if let Err(ended) = &answer
        && ended.code == Code::OutOfRange
    {
        let client_id = &acker.client_id;
        stage.broken(format!(
            "{client_id}: the ack of {revision}, which was received, was refused: {ended:?}"
        ));
    }
    Some(answer)
}
