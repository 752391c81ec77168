// node peer.js PORT KEY KEY_ID TEAM_ID CA: what the peers' package says.
const apn = require('@parse/node-apn'), fs = require('fs'), readline = require('readline');
const AT_ONCE = 500, WARM_UP = 60000;
const [port, key, keyId, teamId, ca] = process.argv.slice(2);
const provider = new apn.Provider({
  token: {key, keyId, teamId}, address: 'localhost', port: Number(port), ca: fs.readFileSync(ca), production: true,
  requestTimeout: 60000,
});

async function push(count, offset) {
  const started = process.hrtime.bigint();
  let next = 0, sent = 0;
  async function worker() {
    while (next < count) {
      const number = offset + next++;
      const note = new apn.Notification();
      note.topic = 'de.cospace.app'; note.pushType = 'background'; note.priority = 5; note.contentAvailable = 1;
      note.payload = {
        owner: '00000000-0000-4000-8000-000000000000', message: 'fax_new',
        fax: 'af729cc0-3251-11e2-81c1-0800200c9a66', phone: '+492215587412', page_count: 2,
      };
      const result = await provider.send(note, 'b' + number.toString(16).padStart(63, '0'));
      sent += result.sent.length;
    }
  }
  await Promise.all(Array.from({length: AT_ONCE}, worker));
  if (sent !== count) throw new Error('sent ' + sent + ' of ' + count);
  return Number(process.hrtime.bigint() - started) / 1e9;
}

(async () => {
  await push(AT_ONCE, 1e9);
  await push(WARM_UP, 2e9);
  console.log('ready');
  for await (const line of readline.createInterface({input: process.stdin})) {
    console.log(await push(...line.split(' ').map(Number)));
  }
  process.exit(0);
})().catch(error => { console.error(error.message); process.exit(1); });
