// Two kafkajs consumers of one group: they share, one leaves, the other takes over and nothing is missing.
const { Kafka, logLevel } = require('kafkajs')
const [, , mode, address, prefix] = process.argv
const topic = `${prefix}-js`, groupId = `${prefix}-js-group`, COUNT = 300
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

async function waitFor (condition, shown) {
  const deadline = Date.now() + 40000
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`timed out: ${shown()}`)
    await sleep(50)
  }
}

async function main () {
  const kafka = new Kafka({ clientId: 'programs', brokers: [address], logLevel: logLevel.NOTHING })
  const admin = kafka.admin()
  await admin.connect()
  if (mode === 'programs') {
    await admin.createTopics({ topics: [{ topic, numPartitions: 4 }], waitForLeaders: true })
    const producer = kafka.producer()
    await producer.connect()
    const messages = [...Array(COUNT).keys()].map(n => ({ key: `${n}`, value: `${n}`, partition: n % 4 }))
    await producer.send({ topic, messages })
    await producer.disconnect()
    const seen = new Set(), assigned = {}
    const start = async name => {
      const consumer = kafka.consumer({ groupId, sessionTimeout: 10000, heartbeatInterval: 500 })
      consumer.on(consumer.events.GROUP_JOIN, event => {
        assigned[name] = event.payload.memberAssignment[topic] || []
      })
      await consumer.connect()
      await consumer.subscribe({ topic, fromBeginning: true })
      await consumer.run({ eachMessage: async ({ message }) => { seen.add(Number(message.value)) } })
      return consumer
    }
    const one = await start('one')
    const two = await start('two')
    await waitFor(() => ['one', 'two'].every(name => assigned[name] && assigned[name].length === 2),
      () => JSON.stringify(assigned))
    await waitFor(() => seen.size === COUNT, () => seen.size)
    await one.disconnect()
    await waitFor(() => assigned.two.length === 4, () => JSON.stringify(assigned))
    await two.disconnect()
  }
  const offsets = await admin.fetchOffsets({ groupId, topics: [topic] })
  const sum = offsets[0].partitions.reduce((total, entry) => total + Number(entry.offset), 0)
  if (sum !== COUNT) throw new Error(`${sum} committed, expected ${COUNT}`)
  const { groups } = await admin.listGroups()
  if (!groups.some(group => group.groupId === groupId)) throw new Error('the group is not listed')
  await admin.disconnect()
}
main().catch(error => { console.error(error); process.exit(1) })
