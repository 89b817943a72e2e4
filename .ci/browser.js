// Drives a browser against a run: see .ci/browser.
"use strict";
const { chromium } = require("playwright-core");
const { spawn } = require("child_process");
const http = require("http"), net = require("net"), path = require("path"), assert = require("assert");

const [wordtide, executablePath, pictures] = process.argv.slice(2);
const later = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Serves lines to whoever connects, as `nc -lk` would.
function serve() {
  const clients = new Set();
  const server = net.createServer((client) => {
    clients.add(client);
    client.on("error", () => {});
    client.on("close", () => clients.delete(client));
  });
  const timer = setInterval(() => clients.forEach((client) => client.write("the sea the tide <b>comes</b>\n".repeat(20))), 100);
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve({
    port: server.address().port,
    close: () => { clearInterval(timer); clients.forEach((client) => client.destroy()); server.close(); },
  })));
}

// An S3 server of little code that keeps its objects in memory and can be away.
function store() {
  const objects = new Map(), state = { isAway: false, objects };
  const xml = (text) => text.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
  const list = (query) => {
    const [prefix, delimiter, after] = ["prefix", "delimiter", "start-after"].map((name) => query.get(name) ?? "");
    const keys = [...objects.keys()].filter((key) => key.startsWith(prefix) && key > after).sort();
    const folders = new Set(), items = [];
    for (const key of keys) {
      const end = delimiter ? key.indexOf(delimiter, prefix.length) : -1;
      if (end < 0) items.push(`<Contents><Key>${xml(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"x"</ETag><Size>${objects.get(key).length}</Size></Contents>`);
      else folders.add(key.slice(0, end + 1));
    }
    const common = [...folders].map((folder) => `<CommonPrefixes><Prefix>${xml(folder)}</Prefix></CommonPrefixes>`);
    return `<?xml version="1.0"?><ListBucketResult><Name>demo</Name><Prefix>${xml(prefix)}</Prefix><KeyCount>${items.length}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>${items.join("")}${common.join("")}</ListBucketResult>`;
  };
  const server = http.createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const url = new URL(request.url, "http://s3"), key = decodeURIComponent(url.pathname).split("/").slice(2).join("/");
      const answer = (code, body = "", headers = {}) => { response.writeHead(code, headers); response.end(body); };
      if (state.isAway) return answer(503, "<Error><Code>ServiceUnavailable</Code><Message>away</Message></Error>");
      if (request.method === "GET" && !key) return answer(200, list(url.searchParams), { "content-type": "application/xml" });
      if (request.method === "PUT") {
        if (request.headers["if-none-match"] === "*" && objects.has(key)) return answer(412, "<Error><Code>PreconditionFailed</Code><Message>it is there</Message></Error>");
        objects.set(key, Buffer.concat(chunks));
        return answer(200, "", { etag: '"x"' });
      }
      if (request.method === "DELETE") { objects.delete(key); return answer(204); }
      if (request.method === "POST") return answer(200, "<DeleteResult></DeleteResult>", { "content-type": "application/xml" });
      if (!objects.has(key)) return answer(404, "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>");
      return answer(200, request.method === "HEAD" ? "" : objects.get(key), { etag: '"x"', "content-length": objects.get(key).length, "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT" });
    });
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve({ ...state, state, port: server.address().port })));
}

async function main() {
  const lines = await serve(), bucket = await store();
  const env = { PATH: process.env.PATH, HOME: process.cwd(), AWS_ACCESS_KEY_ID: "key", AWS_SECRET_ACCESS_KEY: "secret", AWS_EC2_METADATA_DISABLED: "true" };
  const run = spawn(wordtide, ["run", "--connect", `127.0.0.1:${lines.port}`, "--interval", "500ms", "--format", "tsv", "-w", "2",
    "--to", "s3://demo/out/c", "--s3-endpoint", `http://127.0.0.1:${bucket.port}`, "--s3-region", "r", "--s3-addressing", "path",
    "--state", "state", "--http", "127.0.0.1:0"], { stdio: ["ignore", "inherit", "pipe"], env });
  let said = "";
  run.stderr.on("data", (data) => { said += data; });
  const ended = new Promise((resolve) => run.on("exit", (code) => resolve(code)));
  try {
    await watch(run, lines, bucket.state, () => said);
  } catch (error) {
    console.error(said);
    run.kill("SIGKILL");
    throw error;
  }
  run.kill("SIGTERM");
  assert.strictEqual(await ended, 0, said);
  lines.close();
}

async function watch(run, lines, bucket, said) {
  let url;
  while (!(url = /http:\/\/127\.0\.0\.1:\d+\//.exec(said()))) {
    assert.strictEqual(run.exitCode, null, "the run has ended");
    await later(50);
  }
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"] });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  const faults = [];
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) faults.push(message.text()); });
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("request", (request) => { if (!request.url().startsWith(url[0]) && !request.url().startsWith("data:")) faults.push(`asks ${request.url()}`); });
  await page.goto(url[0]);
  const rows = page.locator("[data-wt=epochs] [data-epoch]");
  await rows.first().waitFor();
  const before = await rows.count();
  await page.waitForFunction((before) => document.querySelectorAll("[data-wt=epochs] [data-epoch]").length >= before + 3, before);
  const epochs = await rows.evaluateAll((all) => all.map((row) => Number(row.dataset.epoch)));
  assert.deepStrictEqual(epochs, [...epochs].sort((a, b) => b - a), "newest first");
  assert(await page.locator("[data-wt=chart] svg").count() >= 3);
  assert.match(await page.locator("[data-wt=state]").innerText(), /^counting/);
  assert.strictEqual(await page.locator("[data-wt=workers] [data-worker]").count(), 2);
  assert.strictEqual(await page.locator("[data-wt=sources] [data-source]").getAttribute("data-connected"), "true");

  // The top words are those of the files of that epoch; a word that looks like markup is text.
  await page.waitForFunction(() => document.querySelector("[data-wt=top] [data-word]"));
  const top = await page.locator("[data-wt=top]").evaluate((list) => ({
    epoch: list.dataset.epoch,
    words: [...list.querySelectorAll("[data-word]")].map((item) => [item.dataset.word, Number(item.dataset.count)]),
  }));
  const counts = new Map();
  for (const [key, body] of bucket.objects) {
    if (!key.startsWith(`out/c-${top.epoch}/part-`)) continue;
    for (const line of body.toString().trim().split("\n").filter(Boolean)) {
      const [word, count] = line.split("\t");
      counts.set(word, Number(count));
    }
  }
  assert(top.words.length === counts.size && top.words.every(([word, count]) => counts.get(word) === count), JSON.stringify([top, [...counts]]));
  assert.strictEqual(await page.locator("[data-wt=top] b b").count(), 0);

  // The operators of the workers, the busiest first.
  await page.waitForFunction(() => document.querySelector("[data-wt=operators] [data-operator]"));
  const shares = await page.locator("[data-wt=operators] [data-operator]").evaluateAll((all) => all.map((item) => Number(item.dataset.share)));
  assert.match(await rows.first().locator("td").first().innerText(), /\d\d:\d\d:\d\d\.\d{3}/);
  assert.deepStrictEqual(shares, [...shares].sort((a, b) => b - a), "busiest first");
  await page.screenshot({ path: path.join(pictures, "light.png") });

  bucket.isAway = true;
  await page.locator("[data-wt=banner][data-kind=store_away]").waitFor({ timeout: 60000 });
  await page.screenshot({ path: path.join(pictures, "outage.png") });
  bucket.isAway = false;
  await page.locator("[data-wt=banner][data-kind=store_away]").waitFor({ state: "detached", timeout: 60000 });

  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 360, height: 780 });
  await later(500);
  assert(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing is wider than the screen");
  const ground = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  assert(ground.match(/\d+/g).slice(0, 3).every((value) => value < 64), `dark: ${ground}`);
  await page.screenshot({ path: path.join(pictures, "dark-narrow.png"), fullPage: true });

  lines.close();
  await page.locator("[data-wt=banner][data-kind=source_down]").waitFor({ timeout: 30000 });
  assert.strictEqual(await page.locator("[data-wt=sources] [data-source]").getAttribute("data-connected"), "false");
  assert.deepStrictEqual(faults, []);
  await browser.close();
  console.log(`the page showed ${epochs.length} epochs, an outage, a lost source, a dark and a narrow screen`);
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
