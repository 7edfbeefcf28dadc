//! Man pages and completions of a program, made from its command line, so that they say what its
//! `--help` says. Packages are built with them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use roff::{Roff, bold, roman};

/// For which shells.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];
/// How a heading in the text after a help begins that is a section of its own.
const EXIT_CODES: &str = "Exit codes:";

/// What a program's man pages say beyond its help.
#[derive(Debug, Clone, Copy)]
pub struct Manual {
    /// Where the pages belong: `1` for everybody's programs, `8` for administrators'.
    pub section: &'static str,
    /// Sections of the program's first page, in this order.
    pub more: &'static [Section],
    /// Pages of ours to read next, each with its section in brackets.
    pub see_also: &'static [&'static str],
}

/// A list of terms with what they mean.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// In capitals.
    pub title: &'static str,
    /// Term and text.
    pub entries: &'static [(&'static str, &'static str)],
}

impl Manual {
    /// Writes `man/` with a page for the program and each of its verbs, and `completions/` with a
    /// file for each shell, called as that shell looks for it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, command: Command, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let pages = folder.join("man");
        let completions = folder.join("completions");
        fs::create_dir_all(&pages)?;
        fs::create_dir_all(&completions)?;
        let mut command = command.disable_help_subcommand(true);
        let name = command.get_name().to_owned();
        let mut written = Vec::new();
        for shell in SHELLS {
            written.push(generate_to(shell, &mut command, &name, &completions)?);
        }
        command.build();
        self.page(&command, true, &pages, &mut written)?;
        Ok(written)
    }

    fn page(
        &self,
        command: &Command,
        is_first: bool,
        folder: &Path,
        written: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            self.page(verb, false, folder, written)?;
        }
        let has_verbs = command.get_subcommands().any(|verb| !verb.is_hide_set());
        let has_options = command.get_arguments().any(|option| !option.is_hide_set());
        let man = Man::new(command.clone())
            .section(self.section)
            .source(concat!("ev ", env!("CARGO_PKG_VERSION")))
            .manual("EV charging");
        let mut text = Vec::new();
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        examples(command).to_writer(&mut text)?;
        if has_options {
            man.render_options_section(&mut text)?;
        }
        if has_verbs {
            man.render_subcommands_section(&mut text)?;
        }
        exit_codes(command).to_writer(&mut text)?;
        if is_first {
            self.more().to_writer(&mut text)?;
        }
        self.see_also(command, is_first).to_writer(&mut text)?;
        let path = folder.join(man.get_filename());
        fs::write(&path, text)?;
        written.push(path);
        Ok(())
    }

    fn more(&self) -> Roff {
        let mut roff = Roff::new();
        for section in self.more {
            roff.control("SH", [section.title]);
            for (term, text) in section.entries {
                roff.control("TP", []);
                roff.text([bold(*term)]);
                roff.text([roman(*text)]);
            }
        }
        roff
    }

    fn see_also(&self, command: &Command, is_first: bool) -> Roff {
        let mut roff = Roff::new();
        let full = command.get_display_name().unwrap_or_default();
        let above = full.strip_suffix(command.get_name());
        let above = above.and_then(|name| name.strip_suffix('-'));
        let mut pages: Vec<String> = above
            .map(|name| format!("{name}({})", self.section))
            .into_iter()
            .collect();
        if is_first {
            pages.extend(self.see_also.iter().map(|page| (*page).to_owned()));
        }
        if !pages.is_empty() {
            roff.control("SH", ["SEE ALSO"]);
            roff.text([roman(pages.join(", "))]);
        }
        roff
    }
}

/// Every help of ours begins with them.
fn examples(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let text = command.get_before_long_help().or(command.get_before_help());
    let Some(text) = text.map(ToString::to_string) else {
        return roff;
    };
    let (heading, lines) = text.split_once('\n').unwrap_or(("", &text));
    roff.control("SH", ["EXAMPLES"]);
    // Some headings say more than that these are examples.
    if let Some(said) = heading
        .split_once('(')
        .and_then(|(_, said)| said.rsplit_once(')'))
    {
        roff.text([roman(format!("{}.", capital(said.0)))]);
    }
    let mut is_block = false;
    for line in lines.trim_end().lines() {
        let is_code = line.starts_with("  ");
        if is_code != is_block {
            roff.control(if is_code { "nf" } else { "fi" }, []);
            is_block = is_code;
        }
        match line.strip_prefix(EXIT_CODES) {
            // They have a section of their own.
            Some(_) => break,
            None if is_code => roff.text([roman(format!("    {}", line.trim_start()))]),
            None if line.trim().is_empty() => roff.control("PP", []),
            None => roff.text([roman(line)]),
        };
    }
    if is_block {
        roff.control("fi", []);
    }
    roff
}

fn exit_codes(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let before = command.get_before_long_help().or(command.get_before_help());
    let after = command.get_after_long_help().or(command.get_after_help());
    let texts = [before, after];
    let mut texts = texts.into_iter().flatten().map(ToString::to_string);
    let codes = texts.find_map(|text| {
        text.split_once(EXIT_CODES)
            .map(|(_, codes)| codes.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    if let Some(codes) = codes {
        roff.control("SH", ["EXIT STATUS"]);
        roff.text([roman(codes)]);
    }
    roff
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    const MANUAL: Manual = Manual {
        section: "8",
        more: &[Section {
            title: "FILES",
            entries: &[("/etc/kettle.toml", "How warm.")],
        }],
        see_also: &["cup(1)"],
    };

    fn kettle() -> Command {
        Command::new("kettle")
            .version("1.0")
            .about("Boils water")
            .before_help("Examples (water first):\n  kettle boil --cups 2\n  .hidden")
            .after_help("Exit codes: 0 ok,\n5 cold.")
            .subcommand(Command::new("secret").hide(true))
            .subcommand(
                Command::new("boil")
                    .about("Boil it")
                    .arg(Arg::new("cups").long("cups").help("How many")),
            )
    }

    #[test]
    fn each_verb_has_a_page_and_each_shell_its_file() {
        let folder = tempfile::tempdir().unwrap();
        MANUAL.write(kettle(), folder.path()).unwrap();
        let mut names: Vec<_> = ["man", "completions"]
            .iter()
            .flat_map(|sub| fs::read_dir(folder.path().join(sub)).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = [
            "_kettle",
            "kettle-boil.8",
            "kettle.8",
            "kettle.bash",
            "kettle.fish",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_page_has_what_the_help_has_each_in_its_section() {
        let folder = tempfile::tempdir().unwrap();
        MANUAL.write(kettle(), folder.path()).unwrap();
        let page = fs::read_to_string(folder.path().join("man/kettle.8")).unwrap();
        let after = |title: &str| {
            let (_, rest) = page.split_once(&format!(".SH {title}\n")).unwrap();
            rest.split(".SH ").next().unwrap().to_owned()
        };
        assert!(after("NAME").contains("Boils water"), "{page}");
        let examples = after("EXAMPLES");
        assert!(examples.contains("Water first."), "{page}");
        assert!(examples.contains("kettle boil \\-\\-cups 2"), "{page}");
        // A dot at the beginning of a line would be a command of roff.
        assert!(!examples.contains("\n.hidden"), "{page}");
        assert!(after("\"EXIT STATUS\"").contains("0 ok, 5 cold."), "{page}");
        assert!(after("FILES").contains("/etc/kettle.toml"), "{page}");
        assert!(after("\"SEE ALSO\"").contains("cup(1)"), "{page}");
        assert!(!page.contains("secret"), "{page}");
        let verb = fs::read_to_string(folder.path().join("man/kettle-boil.8")).unwrap();
        assert!(verb.contains("kettle(8)"), "{verb}");
    }
}
