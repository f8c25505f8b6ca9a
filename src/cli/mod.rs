//! The command line: one file per subcommand, what was typed made into calls of the modules below.

mod bench;
mod check;
mod collections;
mod compact;
mod config;
mod enrich;
mod export;
mod import;
mod info;
mod output;
mod place;
mod query;
mod serve;
mod source;
mod sql;
mod token;
mod user;

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Threat-intelligence feeds: millions of indicators in Parquet, served as STIX over TAXII.
#[derive(Debug, Parser)]
#[command(name = "taxiway", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Query(query::QueryArgs),
    Sql(sql::SqlArgs),
    Enrich(enrich::EnrichArgs),
    Source(source::SourceArgs),
    Collections(collections::CollectionsArgs),
    Info(info::InfoArgs),
    Check(check::CheckArgs),
    Compact(compact::CompactArgs),
    User(user::UserArgs),
    Token(token::TokenArgs),
    Bench(bench::BenchArgs),
    Config(config::ConfigArgs),
}

/// Any error of a command; only its text matters from here on.
type CliError = Box<dyn Error + Send + Sync>;

/// How a command ended, if it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All was done.
    Done,
    /// It did its work, and found or left something that needs attention.
    Attention,
}

/// Runs the program with these arguments. Exit codes: 0 done, 1 failed or something needs attention, 2 wrong usage.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing to tell when even the help text cannot be printed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Sql(args) => sql::run(&args),
        Command::Enrich(args) => enrich::run(&args),
        Command::Source(args) => source::run(&args),
        Command::Collections(args) => collections::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Compact(args) => compact::run(&args),
        Command::User(args) => user::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Config(args) => config::run(&args).map(|()| Outcome::Done).map_err(Into::into),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Attention) => ExitCode::FAILURE,
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("error: {}", sentence(&*error)));
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        || error.source().is_some_and(is_broken_pipe)
}

/// An error and its causes, each said once.
fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
