// kafkajs: admin and producer; another client reads what it wrote.
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')
const [, , mode, address, prefix] = process.argv

async function main() {
  const kafka = new Kafka({ clientId: 'compat', brokers: [address], logLevel: logLevel.ERROR })
  const admin = kafka.admin()
  await admin.connect()
  const topic = `${prefix}-kafkajs`
  if (mode === 'produce') {
    await admin.createTopics({ topics: [{ topic, numPartitions: 3 }], waitForLeaders: true })
    const producer = kafka.producer()
    await producer.connect()
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
      const messages = [...Array(100).keys()].map(n => (
        { partition: 1, key: n % 2 ? `key-${n}` : null, value: `value-${compression}-${n}`, headers: { h: `${n}` } }))
      await producer.send({ topic, acks: -1, compression, messages })
    }
    await producer.disconnect()
  }
  const offsets = await admin.fetchTopicOffsets(topic)
  const high = offsets.find(entry => entry.partition === 1).high
  if (high !== '200') throw new Error(`partition 1 ends at ${high}, expected 200`)
  const metadata = await admin.fetchTopicMetadata({ topics: [topic] })
  if (metadata.topics[0].partitions.length !== 3) throw new Error('expected 3 partitions')
  await admin.disconnect()
  console.log(`kafkajs ${mode} ok`)
}
main().catch(error => { console.error(error); process.exit(1) })
