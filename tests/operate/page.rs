//! The status page in a real browser. With SCREENSHOTS=directory it leaves
//! pictures there.

use std::{path::Path, process::Command};

use tempfile::TempDir;
use watchmark::proto::watchmark::v1::{StreamState, SubscribeRequest};

use crate::support::{Scenario, client::request};

const CHROMIUM: &str = "chromium";
/// Of what passes in the page: its first answer is drawn by then.
const PAGE_TIME_MS: u32 = 4000;

/// Opens the page, and returns the document as it was drawn.
fn open(url: &str, width: u32, height: u32, picture: Option<&Path>, dark: bool) -> String {
    let profile = TempDir::new().unwrap();
    let mut browser = Command::new(CHROMIUM);
    browser
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--virtual-time-budget={PAGE_TIME_MS}"))
        .arg(format!("--window-size={width},{height}"));
    if dark {
        browser.args([
            "--force-dark-mode",
            "--blink-settings=preferredColorScheme=0",
        ]);
    }
    match picture {
        Some(picture) => browser.arg(format!("--screenshot={}", picture.display())),
        None => browser.arg("--dump-dom"),
    };
    let output = browser.arg(url).output();
    let output = output.unwrap_or_else(|error| panic!("{CHROMIUM}: {error} (make deps-test)"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    for complaint in ["Content Security Policy", "Uncaught"] {
        assert!(!errors.contains(complaint), "{errors}");
    }
    String::from_utf8(output.stdout).unwrap()
}

fn attribute(document: &str, name: &str) -> Option<u32> {
    let (_, rest) = document.split_once(&format!("{name}=\""))?;
    rest.split('"').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_what_is_and_runs_nothing_that_it_shows() {
    const HOSTILE: &str = "<script>document.title='pwned'</script>";
    let scenario = Scenario::start(&["--allow-prefix="]).await;
    let mut live = scenario.subscribe("orders", "orders/").await;
    live.until_state(StreamState::Live).await;
    let revision = scenario.writer.put("orders/1", "x").await;
    live.events_until(revision).await;
    let hostile = SubscribeRequest {
        key: HOSTILE.into(),
        ..request("hostile", "")
    };
    let mut hostile = scenario.open(hostile).await.unwrap();
    hostile.until_state(StreamState::Live).await;
    let binary = SubscribeRequest {
        key: vec![0xff, 0x00, b'"'].into(),
        range_end: vec![0xff, 0x00, b'"', b'\''].into(),
        ..request("binary", "")
    };
    let _binary = scenario.open(binary).await.unwrap();

    let url = format!("http://{}/", scenario.watchmark.admin_address());
    let document = open(&url, 1280, 900, None, false);
    assert!(
        attribute(&document, "data-width").is_some(),
        "nothing was drawn: {document}"
    );
    assert!(document.contains("<title>watchmark</title>"), "{document}");
    assert!(!document.contains(HOSTILE), "not escaped: {document}");
    let escaped = HOSTILE.replace('<', "&lt;").replace('>', "&gt;");
    for shown in [
        ">orders<",
        "orders/*",
        ">live<",
        ">serves<",
        ">ready<",
        " rev<",
        "<svg",
        &escaped,
        "\\xff\\x00",
    ] {
        assert!(document.contains(shown), "{shown} is not shown: {document}");
    }
    let version = scenario.etcd.client().await.status().await.unwrap();
    assert!(
        document.contains(version.version()),
        "etcd's version is not shown"
    );

    // As narrow as phones are, nothing sticks out.
    let document = open(&url, 390, 844, None, false);
    let width = attribute(&document, "data-width").unwrap();
    assert!(width <= 500, "{width} pixels wide on a phone");

    if let Some(directory) = std::env::var_os("SCREENSHOTS") {
        let at = |name: &str| Path::new(&directory).join(name);
        open(&url, 1280, 900, Some(&at("light.png")), false);
        open(&url, 1280, 900, Some(&at("dark.png")), true);
        open(&url, 390, 1400, Some(&at("phone.png")), false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_what_is_wrong() {
    let nobody = ["http://127.0.0.1:1".to_owned()];
    let watchmark = crate::support::Watchmark::start_on(&nobody, &[]).await;
    crate::support::wait::until("the problem", async || {
        (!watchmark.problems().await.is_empty()).then_some(())
    })
    .await;
    let url = format!("http://{}/", watchmark.admin_address());
    let document = open(&url, 1280, 900, None, false);
    for shown in [
        "ETCD_UNREACHABLE",
        "not ready: etcd not reached yet",
        "Nobody has subscribed",
    ] {
        assert!(document.contains(shown), "{shown} is not shown: {document}");
    }
}
