//! `hansa`: the command line, and the composition of the parts into processes.

mod cli;
mod data_dir;
mod gateway;
mod get;
mod host;
mod install;
mod kubeconfig;
mod manifests;
mod membership;
mod output;
mod processes;
mod sandbox;
mod up;
mod version;
mod webhook;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::Result;
use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(args) => up::run(args).await,
        Command::ControllerManager(args) => processes::controller_manager(args).await,
        Command::Apiserver(args) => processes::apiserver(args).await,
        Command::Webhook(args) => webhook::run(args).await,
        Command::Install { host } => install::install(&host.client()?).await,
        Command::Join(args) => membership::join(args).await,
        Command::Unjoin(args) => membership::unjoin(args).await,
        Command::Get(args) => get::run(args.what).await,
        Command::Kubeconfig(args) => kubeconfig::run(&args).await,
        Command::Manifests(args) => manifests::run(&args),
        Command::Version(args) => version::run(&args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "hansa", &mut io::stdout());
            Ok(())
        }
    }
}

/// Servers log what they do; other commands only what went wrong. `RUST_LOG` says otherwise.
fn log(command: &Command) {
    let default = match command {
        Command::ControllerManager(_) | Command::Apiserver(_) | Command::Webhook(_) => "info",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
