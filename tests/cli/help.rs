//! `--help`: an example for each command, and each example is one.

use clap::ValueEnum;
use watchmark::config::Task;

use super::run::{command, ran};

const COMMANDS: [&str; 8] = [
    "ls",
    "show",
    "tail",
    "ack",
    "seek",
    "rm",
    "health",
    "completions",
];

#[test]
fn every_command_has_examples_that_are_understood_and_exit_codes() {
    for name in COMMANDS {
        let help = ran(&mut command(&[name, "--help"])).quietly();
        let examples: Vec<&str> = help
            .lines()
            .filter_map(|line| line.strip_prefix("  watchmark "))
            .collect();
        assert!(!examples.is_empty(), "{name}: {help}");
        for example in examples {
            let words = example
                .split(' ')
                .take_while(|word| !["|", ">"].contains(word));
            let args: Vec<&str> = std::iter::once("watchmark").chain(words).collect();
            assert_eq!(args[1], name);
            match Task::parse(&args) {
                Ok(Task::Operate(_)) => {}
                other => panic!("{example}: {other:?}"),
            }
        }
        assert!(
            name == "completions" || help.contains("Exit code: 0"),
            "{name}"
        );
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{name}: {line}");
        }
    }
}

#[test]
fn the_help_names_every_command_and_every_exit_code() {
    let help = ran(&mut command(&["--help"])).quietly();
    for name in COMMANDS
        .into_iter()
        .chain(["serve", "WATCHMARK_<FLAG>", "Exit code: 0"])
    {
        assert!(help.contains(name), "{name}: {help}");
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in clap_complete::Shell::value_variants() {
        let shell = shell.to_string();
        let script = ran(&mut command(&["completions", &shell])).quietly();
        for word in ["watchmark", "take-over", "etcd-endpoints"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn bash_completes_a_command_and_a_flag() {
    let script = ran(&mut command(&["completions", "bash"])).quietly();
    let complete = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let run = format!(
            "{script}\nCOMP_WORDS=({line})\nCOMP_CWORD={}\n_watchmark watchmark '{last}' '{before}'\n\
             echo \"${{COMPREPLY[@]}}\"",
            words.len() - 1
        );
        let mut bash = std::process::Command::new("bash");
        ran(bash.args(["--norc", "-c", &run]))
            .stdout
            .trim()
            .to_owned()
    };
    assert_eq!(complete("watchmark se"), "serve seek");
    assert_eq!(complete("watchmark tail --take"), "--take-over");
}
