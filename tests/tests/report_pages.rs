//! `allocs-rewrite report --html`: a page in one file, which Python's parser and node look at.

use allocs_tests::census::command;
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::report::{c_program, compared, text, two_sites};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["report": page, page_of_differences]
}

/// Writes a page, and has Python's parser and node look at it. Returns what the page shows: its data.
pub(crate) fn read_page(dir: &Dir, arguments: &[&str]) -> Value {
    let page = dir.join("page.html");
    let outcome = command(["--html"]).arg(&page).args(arguments).succeed();
    assert_eq!(outcome.stdout(), "", "{outcome}");
    let check = "
import html.parser, sys
class Page(html.parser.HTMLParser):
    open, scripts = [], []
    def handle_starttag(self, tag, attributes):
        assert not {'src', 'href'} & {name for name, _ in attributes}, 'needs another file'
        if tag != 'meta': self.open.append(tag)
        if tag == 'script': self.scripts.append('')
    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
    def handle_data(self, data):
        if self.open[-1:] == ['script']: self.scripts[-1] += data
page = Page()
page.feed(open(sys.argv[1], encoding='utf-8').read())
page.close()
assert page.open == [] and len(page.scripts) == 2, page.open
open(sys.argv[2], 'w').write(page.scripts[1])
print(page.scripts[0])
";
    let script = dir.join("page.js");
    let parsed = Command::new(needs("/usr/bin/python3.11"))
        .args(["-c", check])
        .args([&page, &script])
        .succeed();
    Command::new(needs("node"))
        .arg("--check")
        .arg(&script)
        .succeed();
    serde_json::from_slice(&parsed.stdout).expect("the page's data")
}

fn page() {
    let dir = Dir::new("report-page");
    let program = c_program(&dir, "");
    let report = two_sites(&program, 0x5555_5555_4000).write(&dir, "report.json");
    let data = read_page(&dir, &[report.to_str().unwrap()]);
    let names = data["frames"].as_array().expect("frames");
    let site = |index: usize| -> Vec<&str> {
        let stack = data["sites"][index]["stack"].as_array().expect("a stack");
        let frame = |index: &Value| text(&names[index.as_u64().unwrap() as usize][0]);
        stack.iter().map(frame).collect()
    };
    assert_eq!(site(0), ["make", "main"]);
    assert_eq!(site(1), ["twice", "other", "main"]);
    assert_eq!(
        data["sites"][0]["counts"],
        serde_json::json!([1_234_567, 12, 9_876_543, 345, 2_000_001])
    );
}

fn page_of_differences() {
    let dir = Dir::new("report-page");
    let (_, [before, after]) = compared(&dir, "after.json");
    let data = read_page(&dir, &["--diff", &before, &after]);
    assert_eq!(data["compares"], true);
    assert_eq!(data["sites"][0]["before"][0], 100);
    assert_eq!(data["sites"][0]["counts"][0], 1_000_100);
    assert_eq!(data["sites"][1]["mark"], "gone");
    assert_eq!(data["sites"][2]["mark"], "new");
}
